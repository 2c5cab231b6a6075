-- Store parts. KEYS: the totals of each bucket that is touched. ARGV: 1 where an older version's memories may be left,
-- who stores, then for each part a record (bucket, kind, facts, spans, size, now, key), the part, and for a guest's its
-- facts;
--   for kind OWN then the host that was found released, or nothing
--   for kind UNPLACED, whose key is the guest's own (lua/place_guest.lua), the host that is named or nothing, and an order
-- A large envelope (kind ENVELOPE, its digest in the key's place) stands before the first part under it in the same
-- script; such a part has SHARED among its facts.
-- The answer: a byte a part, BEGUN or ADDED, or why not; with parts of kind UNPLACED the buckets in which those are come
-- behind it, in a list; or nothing when parts of their guests have to move first, and nothing was stored.
local HOST, GUEST, OWN, MOVED, MOVE, ENVELOPE = 0, 1, 2, 3, 4, 6
local STORED, KNOWN = "4", "5"
local RELEASED, LINKED, BEGUN, ADDED = "0", "1", "2", "3"
local items, unplaced, answer = {}, {}, {}
local i, last = 3, #ARGV
may_have_older = ARGV[1] == "1"
set_replica(ARGV[2])
while i <= last do
  local rec = ARGV[i]
  local bucket, kind, facts, n, size, now = unpk("<BBBI4I4d", rec)
  local item = {base = base_of(bucket), kind = kind, facts = facts, spans = n, size = size, now = now,
    key = rec:sub(20), part = ARGV[i + 1]}
  i = i + 2
  if kind ~= HOST and kind ~= ENVELOPE then
    item.guest = ARGV[i]
    i = i + 1
    if kind == OWN then
      item.host = ARGV[i]
      i = i + 1
    elseif kind == UNPLACED then
      item.bucket, item.named_host, item.order = bucket, ARGV[i], ARGV[i + 1]
      unplaced[#unplaced + 1] = item
      i = i + 2
    end
  end
  if kind == HOST then
    item.head = load_head(item.base, item.key)
  elseif kind ~= ENVELOPE then
    load_head(item.base, item.key)
  end
  items[#items + 1] = item
end

local function refusal(item)
  local kind, base, key = item.kind, item.base, item.key
  if kind == GUEST or kind == MOVED then
    local h = load_head(base, key)
    local released
    if h then released = h.remembered else released = remembered(base, key, item.now) end
    if released == 0 then return nil end
    if h and h.gn > 0 then
      local own = guest_of_facts(item.guest)
      for _, facts in ipairs(call("lrange", base .. "g:" .. key, 0, -1)) do
        if guest_of_facts(facts) == own then return nil end
      end
    end
    return RELEASED
  end
  if kind == OWN and not APART then
    local raw = call("get", base .. "l:" .. key)
    if raw and raw:byte(2) == 1 and host_at(raw, LINK_BYTES + 1) ~= item.host then return LINKED end
  end
  return nil
end

for _, item in ipairs(unplaced) do
  if not place(item, refusal) then return "" end
end
for _, item in ipairs(items) do
  if not sure_of[item.base] then check_numbers(item.base) end
end

local function keep_envelope(item)
  local name = item.base .. "r:" .. item.key
  local fresh = call("hsetnx", name, "b", item.part) == 1
  if fresh then
    call("hset", name, "o", ME)
    local of = tally(item.base, ME)
    of[BYTES] = of[BYTES] + #item.part
  end
  call("pexpire", name, TTL)
  return fresh and STORED or KNOWN
end

local function enter_shared(h, ref)
  if call("sadd", h.base .. "v:" .. h.key, ref) == 0 then return end
  call("pexpire", h.base .. "v:" .. h.key, TTL)
  call("hincrby", shared_name(ref), "n", 1)
  h.bytes = h.bytes + call("hstrlen", shared_name(ref), "b")
end

for position, item in ipairs(items) do
  local base, key, now = item.base, item.key, item.now
  local refused = item.kind ~= HOST and item.kind ~= ENVELOPE and not item.of and refusal(item)
  if item.kind == ENVELOPE then
    answer[position] = keep_envelope(item)
  elseif refused then
    answer[position] = refused
  else
    -- A new key may have come with a part before this one; a guest's part may have another key by now.
    local h = item.head or load_head(base, key)
    local is_new = not h
    if is_new then h = new_head(base, key, now) end
    local moved = item.kind == MOVED or item.kind == MOVE
    local number = unpk("<I8", item.part, 17)
    local part, guest = item.part, item.guest
    if number <= h.arr then
      -- Another replica, whose clock is ahead, gave a higher number.
      number = h.arr + 1
      part = part:sub(1, 16) .. pack("<I8", number) .. part:sub(25)
      if guest then guest = guest_of_facts(guest) .. pack("<I8", number) .. guest:sub(GUEST_KEY_BYTES + 9) end
    end
    h.n = call("rpush", base .. "p:" .. key, part)
    h.arr = number
    if guest then
      call("rpush", base .. "g:" .. key, guest)
      if h.gn == 0 then call("pexpire", base .. "g:" .. key, TTL) end
      h.gn = h.gn + 1
      h.gs = h.gs + item.spans
    else
      h.hs = h.hs + item.spans
      h.facts = bit.bor(h.facts, item.facts)
      if item.facts >= SHARED then
        local from = ELEMENT_BYTES + unpk("<H", part, 3)
        enter_shared(h, part:sub(from + 1, from + 17))
      end
    end
    h.bytes = h.bytes + item.size
    if now > h.last then h.last = now end
    if now < h.first then h.first = now end
    if moved then
      if now > h.seen then h.seen = now end
    else
      h.seen = now
    end
    if h.leased == 1 then
      h.fresh = 1
    elseif h.given == 1 and not moved then
      h.at = math.min(h.at, (compute_due(h)))
    end
    h.dirty = true
    if item.of then item.of.more = item.of.more + 1 end
    count(h, item.spans, item.size)
    answer[position] = is_new and BEGUN or ADDED
  end
end
flush()
if #unplaced == 0 then return table.concat(answer) end
note_guests()
local found = {table.concat(answer)}
for _, item in ipairs(unplaced) do found[#found + 1] = item.bucket end
return found
