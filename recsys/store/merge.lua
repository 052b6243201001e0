-- Add an id to one side of a merge: what is merged into a user, or the user that an id is merged into.
-- KEYS[1] ids by when they were merged (sorted set)   KEYS[2] marks of forgotten users
-- ARGV[1] merged at, milliseconds   ARGV[2] the other id   ARGV[3] milliseconds to live
-- ARGV[4] the name of this side's id among the marks
-- Returns 0 if this side's id was forgotten since.
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', KEYS[2], ARGV[4]) or '-1') then return 0 end
redis.call('ZADD', KEYS[1], 'LT', ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
