-- Replace or delete a user's static attributes, unless the stored ones are newer.
-- KEYS[1] the user's attributes   KEYS[2] marks of forgotten users   ARGV[1] changed at, milliseconds
-- ARGV[2] attributes as JSON; empty: deleted   ARGV[3] milliseconds after which they are dropped
-- ARGV[4] the user's name among the marks: a change from before the user was forgotten is dropped
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', KEYS[2], ARGV[4]) or '-1') then return 0 end
local known = tonumber(redis.call('HGET', KEYS[1], 'changed_ms') or '-1')
if tonumber(ARGV[1]) < known then return 0 end
if ARGV[2] == '' then return redis.call('UNLINK', KEYS[1]) end
redis.call('HSET', KEYS[1], 'changed_ms', ARGV[1], 'attributes', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
