-- Read one partition's share of many items in one command.
-- KEYS[1] prefix of the share's key   ARGV[1] item ids, joined
-- Returns for each item its cells: names and amounts in turn.

local found = {}
for item in string.gmatch(ARGV[1], '[^\31]+') do
  found[#found + 1] = redis.call('HGETALL', KEYS[1] .. item)
end
return found
