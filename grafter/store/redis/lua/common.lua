-- What every script begins with. Before it stand the settings of the store: P (prefix), APART, MAX_TRACE (bytes),
-- REMEMBER (nanoseconds), TTL and MEMORY_TTL (milliseconds), DUE_TABLE (the waits, packed).
--
-- Times are nanoseconds since layout.EPOCH; arrivals, tokens and orders are whole numbers below 2^53.
--
-- Keys of bucket NN, after P.."{g:NN}:"
--   m:KEY  head of a held key (HEAD)            p:KEY  its parts, a list       g:KEY  facts of its guest parts, a list
--   x:KEY  outcomes of its exports, a hash      l:KEY  a guest's link          y:KEY  memory
--   b:TOKEN  a plain batch's part of the bucket: its exporter, or "!" and that when it is over
--   d, o   when to look at a key: plain ones, others    z  order of memories
--   f:N    arrivals of the first parts of what replica N began    s  for each replica N its tally
--   e:TOKEN:N  the tally of N when it went from the silent process of that token to another (replicas.py)
--   f:NAME and w  the same for each exporter that has a backlog; its batches stand in none of the queues d and o
--   r:DIGEST  a large envelope: b, its bytes; n, how many keys have parts under it; o, the replica that counts it
--   v:KEY  a held key's large envelopes, a set of bucket (a byte) and digest: SHARED in its facts says that there are
--   k:KEY  how many replicas died with a lease on it, since one did not: SUSPECT in its facts says that some did
--   w:DIGEST  a resource that memories of the bucket have in common: b, its bytes; n, how many. Past its TTL, which is
--             longer than theirs, or with the last that is forgotten by number it goes
local call, pack, unpk = redis.call, struct.pack, struct.unpack
local HEAD = "<BBBBBBBBBI4I4I4I4I4I4dddddddddBc8"
local LINK = "<BBdI4"
local LINK_BYTES = 14
local MEMORY = "<BBd"
local MEMORY_BYTES = 10
local ELEMENT = "<BBHI4I4I4I8i8"
local ELEMENT_BYTES = 32
local TALLY = "<dddddddd"
local TALLY_BYTES = 64
local IN, OUT, BYTES, KEYS_HELD, BROUGHT, PLACED, FETCHED, LOST = 1, 2, 3, 4, 5, 6, 7, 8
local PLAIN, ODD = 1, 2
-- A version that knows no backlogs leaves their batches alone.
local BATCH_VERSION = 2
-- Bits of a key's facts that no part of the core knows.
local SUSPECT, SHARED, OWN_FACTS = 32, 64, 96
local NOBODY = string.rep("\0", 8)

local function base_of(bucket)
  return P .. "{g:" .. bucket .. "}:"
end

-- What a key is: a host's is its trace id, a guest's own one is a byte longer.
local HOST_KEY_BYTES, GUEST_KEY_BYTES = 16, 17

local function is_guest(key)
  return #key == GUEST_KEY_BYTES
end

-- The exporter for which a key waits that is a batch of a backlog (layout.deferred_key), else nothing.
local function waits_for(key)
  if #key ~= HOST_KEY_BYTES and #key ~= GUEST_KEY_BYTES then return key:sub(10) end
end

-- The own key of the guest of whose part these are the facts (layout.GUEST_ELEMENT).
local function guest_of_facts(facts)
  return facts:sub(1, GUEST_KEY_BYTES)
end

-- The host's key that stands in a record from a byte on; a newer version may have put more behind it.
local function host_at(record, first)
  return record:sub(first, first + HOST_KEY_BYTES - 1)
end

local keys, order = {}, {}
-- Who runs the script: the numbers of its replica, a byte each; ME is the one under which it stores.
local OWN_NUMBERS, ME = "", 0
local tallies = {}

local function set_replica(numbers)
  OWN_NUMBERS, ME = numbers, numbers:byte()
end

local function tally(base, number)
  local of = tallies[base]
  if not of then
    of = {}
    tallies[base] = of
  end
  local found = of[number]
  if not found then
    found = {0, 0, 0, 0, 0, 0, 0, 0}
    of[number] = found
  end
  return found
end

-- Spans and bytes came under a key, or left: they are its replica's, whoever did it.
local function count(h, s, b)
  local of = tally(h.base, h.lane or h.replica)
  if h.lane then
    of[IN], of[BYTES] = of[IN] + s, of[BYTES] + b
    return
  end
  local own = h.replica == ME or OWN_NUMBERS:find(string.char(h.replica), 1, true)
  of[BYTES] = of[BYTES] + b
  if s > 0 then
    of[IN] = of[IN] + s
    if not own then
      of[BROUGHT] = of[BROUGHT] + s
      local doer = tally(h.base, ME)
      doer[PLACED] = doer[PLACED] + s
    end
  elseif s < 0 then
    of[OUT] = of[OUT] - s
    if not own then
      of[LOST] = of[LOST] - s
      local doer = tally(h.base, ME)
      doer[FETCHED] = doer[FETCHED] - s
    end
  end
end

-- The head of a key, or nothing. A head that a newer version wrote ends the script before it wrote anything.
local function load_head(base, key)
  local name = base .. "m:" .. key
  local h = keys[name]
  if h ~= nil then return h end
  local raw = call("get", name)
  if not raw then
    keys[name] = false
    return false
  end
  h = {base = base, key = key, lane = waits_for(key)}
  if raw:byte(1) ~= (h.lane and BATCH_VERSION or 1) then error("NEWER a held key") end
  -- One that an older version began ends before the owner.
  if #raw < 114 then raw = raw .. NOBODY end
  local _
  _, h.facts, h.remembered, h.fresh, h.leased, h.given, h.batch, h.outcomes, h.queue, h.n, h.hs, h.gs, h.gn, h.covn,
    h.pinn, h.bytes, h.first, h.last, h.seen, h.arr, h.at, h.token, h.covup, h.pinup, h.replica,
    h.owner = unpk(HEAD, raw)
  h.was = h.first
  keys[name] = h
  order[#order + 1] = h
  return h
end

local function remembered(base, key, now)
  local raw = call("getrange", base .. "y:" .. key, 0, 9)
  if raw == "" then return 0 end
  if raw:byte(1) ~= 1 then return 1 end
  local _, _, at = unpk(MEMORY, raw)
  return now < at + REMEMBER and 1 or 0
end

local function new_head(base, key, now)
  local h = {
    base = base, key = key, facts = 0, fresh = 0, leased = 0, given = 0, batch = 0, outcomes = 0, queue = 0, n = 0,
    hs = 0, gs = 0, gn = 0, covn = 0, pinn = 0, bytes = 0, first = now, last = now, seen = now, arr = 0, at = 0,
    token = 0, covup = 0, pinup = 0, replica = ME, owner = NOBODY, lane = waits_for(key),
  }
  local of = tally(base, h.lane or ME)
  of[KEYS_HELD] = of[KEYS_HELD] + 1
  h.remembered = remembered(base, key, now)
  keys[base .. "m:" .. key] = h
  order[#order + 1] = h
  return h
end

-- A guest's link: whether its host is known, since which order, its parts that are held, and the host, with what a newer
-- version put behind it. Where nothing was known it is what a memory says, or else what a part names now (``named_host``).
local function link_of(base, own, now, named_host, order)
  local has, since, parts, host = 0, 0, 0, ""
  local raw = call("get", base .. "l:" .. own)
  if raw then
    if raw:byte(1) ~= 1 then error("NEWER a link") end
    local _
    _, has, since, parts = unpk(LINK, raw)
    host = raw:sub(LINK_BYTES + 1)
  end
  if has == 0 and parts == 0 then
    local memory = call("get", base .. "y:" .. own)
    if memory and memory:byte(1) == 1 then
      local _, named, at = unpk(MEMORY, memory)
      if named == 1 and now < at + REMEMBER then has, since, host = 1, -1, host_at(memory, MEMORY_BYTES + 1) end
    end
  end
  if has == 0 and named_host ~= "" then has, since, host = 1, tonumber(order), named_host end
  return has, since, parts, host
end

-- The moment at which a key is due, and whether nothing would be left to decide about it then: by the row of its kind
-- (core/lifecycle.py: due_table, due_kind).
local function compute_due(h)
  if h.bytes > MAX_TRACE or h.lane then return h.seen, false end
  local kind = h.facts % 8
  if h.hs == 0 then kind = kind + 8 end
  if h.remembered == 1 or APART then kind = kind + 16 end
  if is_guest(h.key) then kind = kind + 32 end
  local quiet, longest, plain = unpk("<ddd", DUE_TABLE, kind * 24 + 1)
  quiet, longest = h.seen + quiet, h.first + longest
  if quiet > longest then return longest, false end
  return quiet, plain == 1 and h.gn == 0 and h.outcomes == 0 and h.seen == h.last
end

local function due(h)
  if h.leased == 1 or h.given == 1 then return h.at, false end
  return compute_due(h)
end

local function has(h, fact)
  return bit.band(h.facts, fact) ~= 0
end

local function shared_of(h)
  return has(h, SHARED) and call("smembers", h.base .. "v:" .. h.key) or {}
end

local function shared_name(ref)
  return base_of(ref:byte(1)) .. "r:" .. ref:sub(2)
end

-- Its large envelopes, each with its bytes, one after the other.
local function sizes_of(h)
  local sizes = {}
  for _, ref in ipairs(shared_of(h)) do
    sizes[#sizes + 1] = ref
    sizes[#sizes + 1] = call("hstrlen", shared_name(ref), "b")
  end
  return sizes
end

-- The buckets, by what their names begin with, in which a large envelope went.
local lightened = {}

-- The key is no longer under its large envelopes. Their bytes were counted off with its own, and are still held where
-- others are under them.
local function leave_shared(h)
  for _, ref in ipairs(shared_of(h)) do
    local name = shared_name(ref)
    local size = call("hstrlen", name, "b")
    local of = tally(h.base, h.lane or h.replica)
    of[BYTES] = of[BYTES] + size
    if size > 0 and call("hincrby", name, "n", -1) <= 0 then
      local whose = tally(base_of(ref:byte(1)), tonumber(call("hget", name, "o")))
      whose[BYTES] = whose[BYTES] - size
      lightened[base_of(ref:byte(1))] = true
      call("unlink", name)
    end
  end
  if has(h, SHARED) then call("unlink", h.base .. "v:" .. h.key) end
end

-- It was given back, so nobody died of it.
local function clear_suspicion(h)
  if has(h, SUSPECT) then
    call("unlink", h.base .. "k:" .. h.key)
    h.facts = h.facts - SUSPECT
  end
end

local function drop(h)
  local base, key = h.base, h.key
  leave_shared(h)
  clear_suspicion(h)
  call("unlink", base .. "m:" .. key, base .. "p:" .. key)
  if h.gn > 0 or h.guests then call("unlink", base .. "g:" .. key) end
  if h.outcomes == 1 then call("unlink", base .. "x:" .. key) end
  if h.queue ~= 0 then call("zrem", base .. (h.queue == PLAIN and "d" or "o"), key) end
  call("zrem", base .. "f:" .. (h.lane or h.replica), key)
  local of = tally(base, h.lane or h.replica)
  of[KEYS_HELD] = of[KEYS_HELD] - 1
  keys[base .. "m:" .. key] = false
  h.gone = true
end

-- Write the heads that were changed, with their moments, and the tallies.
local function flush()
  for _, h in ipairs(order) do
    if h.dirty and not h.gone then
      local base, key = h.base, h.key
      local at, plain = due(h)
      local queue = plain and PLAIN or ODD
      if h.lane then
        queue = 0
      else
        if h.queue ~= 0 and h.queue ~= queue then call("zrem", base .. (h.queue == PLAIN and "d" or "o"), key) end
        call("zadd", base .. (plain and "d" or "o"), at, key)
      end
      if h.first ~= h.was then call("zadd", base .. "f:" .. (h.lane or h.replica), h.first, key) end
      h.queue = queue
      local raw = pack(HEAD, h.lane and BATCH_VERSION or 1, h.facts, h.remembered, h.fresh, h.leased, h.given, h.batch, h.outcomes, h.queue, h.n,
        h.hs, h.gs, h.gn, h.covn, h.pinn, h.bytes, h.first, h.last, h.seen, h.arr, h.at, h.token, h.covup, h.pinup,
        h.replica, h.owner)
      if h.was then
        call("setrange", base .. "m:" .. key, 0, raw)
      else
        call("set", base .. "m:" .. key, raw, "px", TTL)
        call("pexpire", base .. "p:" .. key, TTL)
      end
    end
  end
  for base, of in pairs(tallies) do
    for number, more in pairs(of) do
      local a, b, c, d, e, f, g, h = unpack(more)
      local hash = base .. (type(number) == "number" and "s" or "w")
      local raw = call("hget", hash, number)
      if raw then
        local a1, b1, c1, d1, e1, f1, g1, h1 = unpk(TALLY, raw)
        a, b, c, d, e, f, g, h = a + a1, b + b1, c + c1, d + d1, e + e1, f + f1, g + g1, h + h1
      end
      local now = pack(TALLY, a, b, c, d, e, f, g, h)
      -- A newer version may know more of it.
      if raw and #raw > TALLY_BYTES then now = now .. raw:sub(TALLY_BYTES + 1) end
      call("hset", hash, number, now)
      if type(number) ~= "number" then
        call("pexpire", hash, TTL)
        call("pexpire", base .. "f:" .. number, TTL)
      end
    end
  end
end

-- Sum a key up anew from the parts that are left of it.
local function resum(h)
  local hs, gs, bytes, facts, gn = 0, 0, 0, 0, 0
  local first, last
  local list = call("lrange", h.base .. "p:" .. h.key, 0, -1)
  for _, part in ipairs(list) do
    local _, kind, more, n, env, head, _, now = unpk(ELEMENT, part)
    if kind >= 128 then
      gs = gs + n
      gn = gn + 1
    else
      hs = hs + n
      facts = bit.bor(facts, kind)
    end
    bytes = bytes + #part - ELEMENT_BYTES - more - env - head
    if not first or now < first then first = now end
    if not last or now > last then last = now end
  end
  -- What is left of a key may be under fewer large envelopes; it keeps all that it had until it goes.
  for _, ref in ipairs(#list > 0 and shared_of(h) or {}) do bytes = bytes + call("hstrlen", shared_name(ref), "b") end
  count(h, hs + gs - h.hs - h.gs, bytes - h.bytes)
  if gn ~= h.gn then h.guests = true end
  facts = bit.bor(facts, bit.band(h.facts, OWN_FACTS))
  h.n, h.hs, h.gs, h.bytes, h.facts, h.gn = #list, hs, gs, bytes, facts, gn
  if h.n == 0 then
    drop(h)
  else
    h.first, h.last = first, last
    h.dirty = true
  end
end

-- The intents of a plain batch, a line each, stand for each of its keys that becomes a claim, or nobody's; "" where there
-- were none.
local function take_intent(h, exporters)
  if exporters == "" then return end
  for exporter in exporters:gmatch("[^\n]+") do call("hset", h.base .. "x:" .. h.key, exporter, "intended") end
  call("pexpire", h.base .. "x:" .. h.key, TTL)
  h.outcomes, h.pinn, h.pinup = 1, h.covn, h.covup
end

local function owned(h, token)
  return h and h.leased == 1 and h.token == token
end

-- The same, or nothing when a newer version wrote it: then it is that one's by now, and no reason to leave out others.
local function readable(base, key)
  local fine, h = pcall(load_head, base, key)
  return fine and h
end

-- Past maxmemory a script may write when it has written before: what frees memory has to work then.
local function allow_past_maxmemory(name)
  call("unlink", name .. "!")
end
