-- Read one partition's share of many items in one command.
-- KEYS[1] prefix of the share's key   ARGV[1] item ids, joined
-- Returns for each item its cells: names and amounts in turn; WRONGTYPE if the key has a value of another type.

local found = {}
for item in string.gmatch(ARGV[1], '[^\31]+') do
  local cells = redis.pcall('HGETALL', KEYS[1] .. item)
  if cells.err then
    if not string.find(cells.err, 'WRONGTYPE', 1, true) then return cells end
    cells = 'WRONGTYPE'
  end
  found[#found + 1] = cells
end
return found
