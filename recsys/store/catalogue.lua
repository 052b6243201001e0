-- Change catalogue entries and tell the readers of the change stream, in one step. Older changes change nothing.
-- KEYS[1] entries   KEYS[2] when each was changed   KEYS[3] stream   KEYS[4] id of its last entry
-- ARGV[1] stream entries to keep   ARGV[2] separator of ids   then id, milliseconds and entry of each change

local changed = {}
for i = 3, #ARGV, 3 do
  local id, at, entry = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local known = tonumber(redis.call('HGET', KEYS[2], id) or '-1')
  if at > known or (at == known and redis.call('HGET', KEYS[1], id) ~= entry) then
    redis.call('HSET', KEYS[1], id, entry)
    redis.call('HSET', KEYS[2], id, ARGV[i + 1])
    changed[#changed + 1] = id
  end
end
if #changed > 0 then
  -- each stream entry names its predecessor: a reader sees what was trimmed
  local after = redis.call('GET', KEYS[4]) or '0-0'
  local last = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'after', after,
                          'items', table.concat(changed, ARGV[2]))
  redis.call('SET', KEYS[4], last)
end
return #changed
