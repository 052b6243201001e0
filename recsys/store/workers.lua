-- Record one worker's heartbeat and list the living workers.
-- KEYS[1] workers (sorted set by their last heartbeat)   ARGV[1] worker   ARGV[2] ttl_ms
-- Returns the living workers' names, sorted.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[2])
local living = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(living)
return living
