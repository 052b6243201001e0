-- Apply one batch of events and its offset, all or nothing.
-- KEYS[1] checkpoint   ARGV[1] key prefix with the hash tag   ARGV[2] topic
-- ARGV[3] batch (MessagePack): header, event ids, visits, cells of users, cells of items, what counts once; added up
-- ARGV[4] event ids and keys of what counts once, 16 bytes each   ARGV[5] fields, 8 bytes each; both in the order of the batch, which has their numbers
-- Every other key is made from ARGV[1], so it lies in the slot of KEYS[1] (docs/adr: keys of the online store).
-- Returns {outcome, offset, …}. Nothing is written unless the outcome is 'applied':
--   fenced   another claimant has a later epoch        gap   records before the batch are missing
--   behind   some of its events are below the offset   known, id, …   these ids have been seen
--   forgotten   the caller does not know all marks of forgotten users
-- The last three are rare: the caller encodes the batch without those events and retries.
--   applied, key, …   written, but for these keys: they have values of another type

local call = redis.call
local prefix, topic = ARGV[1], ARGV[2]
local head, ids, visits, users, items, once = unpack(cmsgpack.unpack(ARGV[3]))
local PRUNE_STEP = 64 -- new cells after which a hash is searched for expired tiles
local ADD, LEAST, MOST = string.byte('+<>', 1, 3)
local MAX_SUM = 2 ^ 53 - 1 -- sums saturate: `recsys.contracts.state`

local clock = call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function cut(text, width) -- returns a function that gives the next n pieces
  local at = 1
  return function(n)
    local pieces = {}
    for i = 1, n do pieces[i] = string.sub(text, at, at + width - 1) at = at + width end
    return pieces
  end
end

local SLICE = 1000 -- a Lua call takes some thousand arguments
local function each_slice(list, visit)
  for first = 1, #list, SLICE do visit(first, math.min(#list, first + SLICE - 1)) end
end

-- (3a) Only the partition's last claimant may write, and only what follows what is stored.
local stored = call('HMGET', KEYS[1], 'epoch', 'offset', 'watermark', 'oldest_bucket')
local offset = tonumber(stored[2] or 0)
if tonumber(stored[1]) ~= head.epoch then return {'fenced', offset} end
if head.previous > offset then return {'gap', offset} end

-- (3b) Events below the offset were applied before: a replay. Without events nothing can count twice.
if #ids > 0 and head.first < offset then return {'behind', offset} end

-- Users are forgotten by marks that the caller applies: it must know all of them.
if (call('HGET', prefix .. 'forgotten', 'version') or '0') ~= head.forgotten then return {'forgotten', offset} end

-- (3c) Known ids were sent twice. A retry may have another event time, and so belong to the neighbouring bucket.
local registry = prefix .. 'd:' .. topic
local known = {'known', offset}
local next_ids = cut(ARGV[4], 16)
for _, row in ipairs(ids) do -- bucket, number of ids
  local bucket, keys = row[1], next_ids(row[2])
  row[2] = keys
  for near = bucket - 1, bucket + 1 do
    for _, name in ipairs(head.topics) do -- an event has one id, whichever of them it comes by
      local set = prefix .. 'd:' .. name .. ':' .. near
      if call('EXISTS', set) == 1 then
        each_slice(keys, function(first, last)
          for i, seen in ipairs(call('SMISMEMBER', set, unpack(keys, first, last))) do
            if seen == 1 then known[#known + 1] = keys[first + i - 1] end
          end
        end)
      end
    end
  end
end
if #known > 2 then return known end
for _, row in ipairs(ids) do
  local bucket, keys = row[1], row[2]
  each_slice(keys, function(first, last) call('SADD', registry .. ':' .. bucket, unpack(keys, first, last)) end)
  call('ZADD', registry, bucket, bucket)
end

-- (3d) Write the cells. A hash that has grown drops the tiles that no window reaches any more.
-- A field is its aggregate's number in 2 bytes, its tile in 4, its bucket in 2; the most significant byte first.
local function prune(key, oldest_tile)
  for _, field in ipairs(call('HKEYS', key)) do
    local a, b, c, d, e, f = string.byte(field, 1, 6)
    if ((c * 256 + d) * 256 + e) * 256 + f < oldest_tile[a * 256 + b + 1] then call('HDEL', key, field) end
  end
end

local result = {'applied', 0}
local function attempt(command, key, ...) -- returns nil if the key has a value of another type
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return call(command, key, ...) end -- raises
  if result[#result] ~= key then result[#result + 1] = key end
end

local next_fields = cut(ARGV[5], 8)
local function write(key, amounts, ops, oldest_tile) -- returns when it expires, nothing if it is damaged
  local fields, fresh = next_fields(#amounts), 0
  each_slice(fields, function(first, last)
    local old, changes = attempt('HMGET', key, unpack(fields, first, last)), {}
    if not old then return end
    for i = first, last do
      -- a cell that is no number starts again: the readers name it, and nothing stops
      local before, amount = tonumber(old[i - first + 1]), amounts[i]
      if amount then -- false: nothing that counts once was new
        if before then
          local op = string.byte(ops, i)
          if op == ADD then amount = math.min(before + amount, MAX_SUM)
          elseif op == LEAST then amount = math.min(before, amount)
          elseif op == MOST then amount = math.max(before, amount) end
        else
          fresh = fresh + 1
        end
        changes[#changes + 1] = fields[i]
        changes[#changes + 1] = amount
      end
    end
    if #changes > 0 then call('HSET', key, unpack(changes)) end
  end)
  if result[#result] == key then return end
  local size = call('HLEN', key)
  if math.floor(size / PRUNE_STEP) > math.floor((size - fresh) / PRUNE_STEP) then prune(key, oldest_tile) end
  local until_ms = now_ms + (size < head.new_cells and head.new_idle_ms or head.idle_ms)
  call('PEXPIREAT', key, until_ms)
  return until_ms
end

-- What has state is listed by when it expires. The lists shrink with it; beyond `most`, the next to expire go now.
local function list(name, expiries, most, keys_of) -- expiries: when, id, when, id, …
  local index = prefix .. name
  each_slice(expiries, function(first, last) call('ZADD', index, unpack(expiries, first, last)) end)
  call('ZREMRANGEBYSCORE', index, '-inf', now_ms)
  local surplus = call('ZCARD', index) - most
  if surplus > 0 then
    local dropped = call('ZPOPMIN', index, math.min(surplus, SLICE))
    for i = 1, #dropped, 2 do call('UNLINK', unpack(keys_of(dropped[i]))) end
  end
end

local expiries, user_until = {}, {}
for _, row in ipairs(users[2]) do
  local until_ms = write(prefix .. 'u:' .. row[1], row[2], row[3], users[1])
  if until_ms then
    expiries[#expiries + 1] = until_ms
    expiries[#expiries + 1] = row[1]
    user_until[row[1]] = until_ms
  end
end
for _, row in ipairs(visits) do
  local user, size, members = row[2], row[3], row[4] -- members: time, visit, time, visit, …
  local key = prefix .. 'h:' .. row[1] .. ':' .. user
  each_slice(members, function(first, last) attempt('ZADD', key, unpack(members, first, last)) end)
  if result[#result] ~= key then
    call('ZREMRANGEBYRANK', key, 0, -(size + 1))
    call('PEXPIREAT', key, user_until[user] or now_ms + head.new_idle_ms)
  end
end
list('users', expiries, head.max_users, function(user)
  local keys = {prefix .. 'u:' .. user}
  for _, name in ipairs(head.histories) do keys[#keys + 1] = prefix .. 'h:' .. name .. ':' .. user end
  return keys
end)

-- A user counts once for an item and a tile. The keys are kept as event ids are, until no event of the tile can come.
local noted = {}
for _, row in ipairs(once) do
  local number, bucket, keys, places = row[1], row[2], next_ids(row[3]), row[4]
  local fresh = 0
  each_slice(keys, function(first, last)
    fresh = fresh + call('SADD', registry .. ':' .. bucket, unpack(keys, first, last))
  end)
  if not noted[bucket] then noted[bucket] = call('ZADD', registry, bucket, bucket) end
  for _, place in ipairs(fresh > 0 and places or {}) do
    local amounts = items[2][number][2]
    amounts[place] = (amounts[place] or 0) + fresh
  end
end
local changed = {}
expiries = {}
for i, row in ipairs(items[2]) do
  local item = row[1]
  local until_ms = write(prefix .. 'i:' .. item, row[2], row[3], items[1])
  if until_ms then
    expiries[#expiries + 1] = until_ms
    expiries[#expiries + 1] = item
  end
  changed[i] = item
end
list('items', expiries, head.max_items, function(item) return {prefix .. 'i:' .. item} end)

-- (3e) Tell readers which items changed. Each entry names its predecessor: a reader sees what was trimmed.
if #changed > 0 then
  local stream = prefix .. 'changed'
  local after = call('GET', stream .. ':last') or '0-0'
  local last = call('XADD', stream, 'MAXLEN', '~', head.changes, '*',
    'after', after, 'items', table.concat(changed, '\31'))
  call('SET', stream .. ':last', last)
end

-- (3f) Forget event ids beyond the dedupe window: such an event would be late, in each partition that comes here.
if head.oldest_bucket > tonumber(stored[4] or 0) then
  local needed = prefix .. 'needed:' .. topic
  call('ZADD', needed, head.oldest_bucket, KEYS[1])
  local oldest = call('ZRANGE', needed, 0, 0, 'WITHSCORES')[2]
  for _, bucket in ipairs(call('ZRANGEBYSCORE', registry, '-inf', '(' .. oldest)) do
    call('UNLINK', registry .. ':' .. bucket)
  end
  call('ZREMRANGEBYSCORE', registry, '-inf', '(' .. oldest)
end

-- (3g) The offset moves in the same step as the states.
offset = math.max(offset, head.next)
call('HSET', KEYS[1], 'offset', offset, 'oldest_bucket', head.oldest_bucket,
  'watermark', math.max(tonumber(stored[3] or 0), head.watermark))
result[2] = offset
return result
