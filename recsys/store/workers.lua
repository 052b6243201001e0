-- Say that one worker lives, and learn which others do.
-- KEYS[1] workers (sorted set by the time of their last word)   ARGV[1] worker   ARGV[2] ttl_ms
-- Returns the living workers' names, sorted.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[2])
local living = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(living)
return living
