-- Put changed items on a change stream. Each entry names its predecessor: a reader sees what was trimmed.
-- KEYS[1] stream   KEYS[2] id of its last entry   ARGV[1] entries to keep   ARGV[2] item ids, joined

local after = redis.call('GET', KEYS[2]) or '0-0'
local last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'after', after, 'items', ARGV[2])
redis.call('SET', KEYS[2], last)
return last
