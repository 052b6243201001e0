-- Apply one batch of events and its offset, all or nothing.
-- KEYS[1] checkpoint   ARGV[1] key prefix with the partition's hash tag   ARGV[2] topic
-- ARGV[3] batch (MessagePack: header, rows)   ARGV[4] event ids, 16 bytes each
-- Every other key is made from ARGV[1], so it lies in the slot of KEYS[1] (docs/adr: keys of the online store).
-- Returns {outcome, offset, applied, duplicates, skipped}.

local call = redis.call
local prefix, topic, ids = ARGV[1], ARGV[2], ARGV[4]
local batch = cmsgpack.unpack(ARGV[3])
local head, rows = batch[1], batch[2]
local names, ops = head.cells, head.ops
local PRUNE_STEP = 64 -- a hash is searched for expired tiles each time it has grown by so many cells

-- (3a) Only the partition's last claimant may write, and only what follows what is stored.
local stored = call('HMGET', KEYS[1], 'epoch', 'offset', 'watermark', 'oldest_bucket')
local offset = tonumber(stored[2] or 0)
if tonumber(stored[1]) ~= head.epoch then return {'fenced', offset, 0, 0, 0} end
if head.previous > offset then return {'gap', offset, 0, 0, 0} end

-- Sum up what changes, so that each cell is written once a batch.
local users, items, visits = {}, {}, {}

local function gather(into, id, changes)
  local cells = into[id]
  if not cells then cells = {} into[id] = cells end
  for i = 1, #changes, 2 do
    local cell, amount = changes[i], changes[i + 1]
    local old, op = cells[cell], ops[cell]
    if not old then cells[cell] = amount
    elseif op == '+' then cells[cell] = old + amount
    elseif op == '<' then cells[cell] = math.min(old, amount)
    else cells[cell] = math.max(old, amount) end
  end
end

local applied, duplicates, skipped = 0, 0, 0
local buckets = {}
for i = 1, #rows do
  local row = rows[i] -- offset, bucket, user, item, user changes, item changes, visits
  if row[1] < offset then
    skipped = skipped + 1 -- (3b) applied before: a replay
  else
    local bucket = buckets[row[2]]
    if not bucket then
      bucket = prefix .. 'd:' .. topic .. ':' .. row[2]
      buckets[row[2]] = bucket
      call('ZADD', prefix .. 'd:' .. topic, row[2], row[2])
    end
    if call('SADD', bucket, string.sub(ids, 16 * i - 15, 16 * i)) == 0 then
      duplicates = duplicates + 1 -- (3c) sent twice
    else
      applied = applied + 1
      gather(users, row[3], row[5])
      gather(items, row[4], row[6])
      for _, visit in ipairs(row[7]) do -- history, time, member
        local key = prefix .. 'h:' .. visit[1] .. ':' .. row[3]
        call('ZADD', key, visit[2], visit[3])
        visits[key] = head.sizes[visit[1]]
      end
    end
  end
end

-- (3d) Write the cells. A hash that has grown a lot loses the tiles that no window reaches any more.
local function prune(key, oldest_tile)
  for _, field in ipairs(call('HKEYS', key)) do
    local name, tile = string.match(field, '^([^@]+)@(%d+)')
    local oldest = name and oldest_tile[name]
    if oldest and tonumber(tile) < oldest then call('HDEL', key, field) end
  end
end

local function write(key, cells, oldest_tile) -- returns true if the entity is new
  local fresh = 0
  for cell, amount in pairs(cells) do
    local name, op = names[cell], ops[cell]
    if op == '+' then
      if call('HINCRBY', key, name, amount) == amount then fresh = fresh + 1 end
    else
      local old = tonumber(call('HGET', key, name) or nil)
      if not old then fresh = fresh + 1 end
      if not old or (op == '<' and amount < old) or (op == '>' and amount > old) then
        call('HSET', key, name, amount)
      end
    end
  end
  call('PEXPIRE', key, head.idle_ms)
  if fresh == 0 then return false end
  local size = call('HLEN', key)
  if math.floor(size / PRUNE_STEP) > math.floor((size - fresh) / PRUNE_STEP) then prune(key, oldest_tile) end
  return size == fresh
end

for user, cells in pairs(users) do
  if next(cells) then write(prefix .. 'u:' .. user, cells, head.oldest_user_tile) end
end
for key, size in pairs(visits) do
  call('ZREMRANGEBYRANK', key, 0, -(size + 1))
  call('PEXPIRE', key, head.idle_ms)
end
local changed = {}
for item, cells in pairs(items) do
  if next(cells) then
    if write(prefix .. 'i:' .. item, cells, head.oldest_item_tile) then call('SADD', prefix .. 'items', item) end
    changed[#changed + 1] = item
  end
end

-- (3e) Tell readers which items changed. Each entry names its predecessor: a reader sees what was trimmed.
if #changed > 0 then
  local stream = prefix .. 'changed'
  local after = call('GET', stream .. ':last') or '0-0'
  local last = call('XADD', stream, 'MAXLEN', '~', head.changes, '*',
    'after', after, 'items', table.concat(changed, '\31'))
  call('SET', stream .. ':last', last)
end

-- (3f) Forget the event ids that are too old to come again: such an event would be a late one.
if head.oldest_bucket > tonumber(stored[4] or 0) then
  local registry = prefix .. 'd:' .. topic
  for _, bucket in ipairs(call('ZRANGEBYSCORE', registry, '-inf', '(' .. head.oldest_bucket)) do
    call('UNLINK', registry .. ':' .. bucket)
  end
  call('ZREMRANGEBYSCORE', registry, '-inf', '(' .. head.oldest_bucket)
end

-- (3g) The offset moves in the same step as the states.
offset = math.max(offset, head.next)
call('HSET', KEYS[1], 'offset', offset, 'oldest_bucket', head.oldest_bucket,
  'watermark', math.max(tonumber(stored[3] or 0), head.watermark))
return {'applied', offset, applied, duplicates, skipped}
