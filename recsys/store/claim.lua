-- Become the writer of one topic partition.
-- KEYS[1] checkpoint   ARGV[1] log_id
-- Returns {epoch, offset, watermark_ms}.

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
