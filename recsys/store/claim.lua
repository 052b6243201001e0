-- Become the writer of one topic partition in one part of the store.
-- KEYS[1] checkpoint   KEYS[2] buckets of event ids   KEYS[3] items with a share   KEYS[4] change stream
-- KEYS[5] its last entry   KEYS[6] a key for a moment   KEYS[7] checkpoint of the part's own partition, where the key
-- above is another's   ARGV[1] log_id   ARGV[2] epoch, '': the next   ARGV[3], ARGV[4] offset and watermark to begin
-- with where there is no checkpoint; '': 0, in the part's own partition alone
-- Returns {epoch, offset, watermark_ms}; {'lost'}: events were counted, but their offset is gone; {'unknown'}: the
-- partition was added to the topic, and not to the store; {'fenced'}: a later claimant was here.

local types = {'hash', 'zset', 'zset', 'stream', 'string', [7] = 'hash'}
for i, expected in pairs(types) do
  local found = KEYS[i] and redis.call('TYPE', KEYS[i]).ok or 'none'
  if found ~= expected and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a ' .. expected)
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  local own, counted = not KEYS[7], redis.call('EXISTS', KEYS[2]) == 1
  if own and counted then return {'lost'} end
  if not own and ARGV[3] == '' then return {'unknown'} end
  if not own and not counted and redis.call('EXISTS', KEYS[7]) == 0 then -- what is counted here now is not lost there
    redis.call('HSET', KEYS[7], 'epoch', 0, 'offset', 0, 'watermark', 0, 'log_id', '')
  end
end

-- What apply.lua runs: an account that may not is refused here, and not in the middle of a batch.
local function try(...) -- commands on the key, one after the other
  redis.call('UNLINK', KEYS[6])
  for _, command in ipairs({...}) do redis.call(command[1], KEYS[6], unpack(command, 2)) end
end
try({'HSET', 'f', 1}, {'HMGET', 'f'}, {'HKEYS'}, {'HLEN'}, {'HDEL', 'f'})
try({'SADD', 'm'}, {'SMISMEMBER', 'm'}, {'PEXPIREAT', 9e15})
try({'ZADD', 1, 'm'}, {'ZRANGE', 0, 0}, {'ZRANGEBYSCORE', 0, 1}, {'ZREMRANGEBYSCORE', 0, 0}, {'ZREMRANGEBYRANK', 0, 0}, {'ZCARD'}, {'ZPOPMIN', 1})
try({'XADD', 'MAXLEN', '~', 1, '*', 'f', 'v'})
try({'SET', 'v'}, {'GET'}, {'UNLINK'})

local stored = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'watermark', 'log_id')
local offset = tonumber(stored[2] or ARGV[3]) or 0
local watermark = tonumber(stored[3] or ARGV[4]) or 0

-- A topic that was created again starts at 0. The watermark stays, because the states do.
if stored[4] and stored[4] ~= ARGV[1] then offset = 0 end

-- Epochs follow the clock: a server that lost its last second must not hand out the same epoch twice.
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(stored[1] or 0)
local epoch = tonumber(ARGV[2]) or math.max(last + 1, now_ms)
if epoch < last then return {'fenced'} end

redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset, 'watermark', watermark, 'log_id', ARGV[1])
return {epoch, offset, watermark}
