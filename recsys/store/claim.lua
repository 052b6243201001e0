-- Become the writer of one topic partition.
-- KEYS[1] checkpoint   KEYS[2] buckets of event ids   KEYS[3] items with a share   KEYS[4] change stream
-- KEYS[5] its last entry   KEYS[6] a key for a moment   ARGV[1] log_id
-- Returns {epoch, offset, watermark_ms}, or {'lost'}: events were counted, but their offset is gone.

local types = {'hash', 'zset', 'zset', 'stream', 'string'}
for i, expected in ipairs(types) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= expected and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a ' .. expected)
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[2]) == 1 then return {'lost'} end

-- What apply.lua runs: an account that may not is refused here, and not in the middle of a batch.
local function try(...) -- commands on the key, one after the other
  redis.call('UNLINK', KEYS[6])
  for _, command in ipairs({...}) do redis.call(command[1], KEYS[6], unpack(command, 2)) end
end
try({'HSET', 'f', 1}, {'HMGET', 'f'}, {'HKEYS'}, {'HLEN'}, {'HDEL', 'f'})
try({'SADD', 'm'}, {'SMISMEMBER', 'm'}, {'PEXPIREAT', 9e15})
try({'ZADD', 1, 'm'}, {'ZRANGEBYSCORE', 0, 1}, {'ZREMRANGEBYSCORE', 0, 0}, {'ZREMRANGEBYRANK', 0, 0}, {'ZCARD'}, {'ZPOPMIN', 1})
try({'XADD', 'MAXLEN', '~', 1, '*', 'f', 'v'})
try({'SET', 'v'}, {'GET'}, {'UNLINK'})

local stored = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'watermark', 'log_id')
local offset = tonumber(stored[2] or 0)
local watermark = tonumber(stored[3] or 0)

-- A topic that was created again starts at 0. The watermark stays, because the states do.
if stored[4] and stored[4] ~= ARGV[1] then offset = 0 end

-- Epochs follow the clock: a server that lost its last second must not hand out the same epoch twice.
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local epoch = math.max(tonumber(stored[1] or 0) + 1, now_ms)

redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset, 'watermark', watermark, 'log_id', ARGV[1])
return {epoch, offset, watermark}
