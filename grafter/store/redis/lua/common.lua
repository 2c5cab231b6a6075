-- What every script begins with. Before it stand the settings of the store: P (prefix), APART, MAX_TRACE (bytes),
-- REMEMBER (nanoseconds), TTL (milliseconds, as a word) and MEMORY_TTL (milliseconds), DUE_TABLE (the waits, packed).
--
-- Times are nanoseconds since layout.EPOCH; arrivals, tokens and orders are whole numbers below 2^53.
--
-- Keys of bucket NN, after P.."{g:NN}:"
--   m:KEY  head of a held key (HEAD)            p:KEY  its parts, a list       g:KEY  facts of its guest parts, a list
--   x:KEY  outcomes of its exports, a hash      l:KEY  a guest's link
--   b:TOKEN  a plain batch's part of the bucket: its exporter, or "!" and that when it is over
--   d, o   when to look at a key: plain ones, others    y, t, u  what is remembered (memories.lua)
--   f:N    arrivals of the first parts of what replica N began    s  for each replica N its tally, and the token of
--          the process that has the number
--   e:TOKEN:N  the tally of N when it went from the process of that token to another (registration.py)
--   n:TOKEN    what that process had noted of its books, by the numbers that went to others
--   f:NAME and w  the same for each exporter that has a backlog; its batches stand in none of the queues d and o
--   r:DIGEST  a large envelope: b, its bytes; n, how many keys have parts under it; o, the replica that counts it
--   v:KEY  a held key's large envelopes, a set of bucket (a byte) and digest: SHARED in its facts says that there are
--   k:KEY  how many replicas died with a lease on it, since one did not: SUSPECT in its facts says that some did
--   y:KEY, z, w:DIGEST  memories, their order, and what they have in common, as an older version left them
local call, pack, unpk = redis.call, struct.pack, struct.unpack
local HEAD = "<BBBBBBBBBI4I4I4I4I4I4dddddddddBc8"
local LINK = "<BBdI4"
local LINK_BYTES = 14
local MEMORY = "<BBdH"
local MEMORY_BYTES = 12
local ELEMENT = "<BBHI4I4I4I8i8"
local ELEMENT_BYTES = 32
local TALLY = "<ddddddddc8d"
local TALLY_BYTES = 80
local WHOSE_FROM, WHOSE_TO = 65, 72
local IN, OUT, BYTES, KEYS_HELD, BROUGHT, PLACED, FETCHED, LOST, MOVED = 1, 2, 3, 4, 5, 6, 7, 8, 9
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
-- Who runs the script: the token of the process, and its numbers, a byte each; ME is the one under which it stores.
local TOKEN, OWN_NUMBERS, ME = NOBODY, "", 0
local tallies = {}
-- What the store has of tallies, as it was before this script.
local tallies_before = {}

local function set_replica(who)
  TOKEN, OWN_NUMBERS, ME = who:sub(1, 8), who:sub(9), who:byte(9)
end

-- A tally with all that is known of one; one that an older version made ends before that.
local function whole_tally(raw)
  return #raw < TALLY_BYTES and raw .. string.rep("\0", TALLY_BYTES - #raw) or raw
end

-- A number as a word of a command. Redis would write it as one that may have a fraction, which takes as long as the command.
local words = {}
local function word_of(number)
  local word = words[number] or string.format("%d", number)
  words[number] = word
  return word
end

-- Of a replica, or of what waits for an exporter.
local function tally_before(base, number)
  local of = tallies_before[base]
  if not of then
    of = {}
    tallies_before[base] = of
  end
  local raw = of[number]
  if raw == nil then
    if type(number) == "number" then
      raw = call("hget", base .. "s", word_of(number))
    else
      raw = call("hget", base .. "w", number)
    end
    raw = raw and whole_tally(raw)
    of[number] = raw
  end
  return raw
end

local sure_of = {}

-- Ends the script, before it wrote anything, where another process has begun a number of who runs it: that one was silent
-- for long, and has sent this before it heard so. What it did would be in nobody's books.
local function check_numbers(base)
  sure_of[base] = true
  for i = 1, #OWN_NUMBERS do
    local raw = tally_before(base, OWN_NUMBERS:byte(i))
    local whose = raw and raw:sub(WHOSE_FROM, WHOSE_TO)
    if whose and whose ~= TOKEN and whose ~= NOBODY then error("TAKENOVER a number") end
  end
end

local function tally(base, number)
  local of = tallies[base]
  if not of then
    of = {}
    tallies[base] = of
  end
  local found = of[number]
  if not found then
    found = {0, 0, 0, 0, 0, 0, 0, 0, 0}
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
  local lane = #key ~= HOST_KEY_BYTES and waits_for(key) or nil
  if raw:byte(1) ~= (lane and BATCH_VERSION or 1) then error("NEWER a held key") end
  -- One that an older version began ends before the owner.
  if #raw < 114 then raw = raw .. NOBODY end
  local _, facts, is_remembered, fresh, leased, given, batch, outcomes, queue, n, hs, gs, gn, covn, pinn, bytes, first, last,
    seen, arr, at, token, covup, pinup, replica, owner = unpk(HEAD, raw)
  -- All at once: a table that grows a field at a time is laid out anew five times.
  h = {
    base = base, key = key, lane = lane, facts = facts, remembered = is_remembered, fresh = fresh, leased = leased,
    given = given, batch = batch, outcomes = outcomes, queue = queue, n = n, hs = hs, gs = gs, gn = gn, covn = covn,
    pinn = pinn, bytes = bytes, first = first, last = last, seen = seen, arr = arr, at = at, token = token, covup = covup,
    pinup = pinup, replica = replica, owner = owner, was = first, dirty = false,
  }
  keys[name] = h
  order[#order + 1] = h
  return h
end

-- False where the caller knows that no bucket has memories of an older version.
local may_have_older = true

-- The memory of a key, which begins with MEMORY, or nothing. An older version's had no number there.
local function memory_of(base, key)
  local raw = call("hget", base .. "y", key)
  if raw or not may_have_older then return raw end
  raw = call("get", base .. "y:" .. key)
  return raw and raw:sub(1, MEMORY_BYTES - 2) .. "\0\0" .. raw:sub(MEMORY_BYTES - 1)
end

local function remembered(base, key, now)
  local raw = memory_of(base, key)
  if not raw then return 0 end
  if raw:byte(1) ~= 1 then return 1 end
  local _, _, at = unpk(MEMORY, raw)
  return now < at + REMEMBER and 1 or 0
end

local function new_head(base, key, now)
  local h = {
    base = base, key = key, facts = 0, fresh = 0, leased = 0, given = 0, batch = 0, outcomes = 0, queue = 0, n = 0,
    hs = 0, gs = 0, gn = 0, covn = 0, pinn = 0, bytes = 0, first = now, last = now, seen = now, arr = 0, at = 0,
    token = 0, covup = 0, pinup = 0, replica = ME, owner = NOBODY, lane = waits_for(key), dirty = false,
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
    local memory = memory_of(base, own)
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
  if bit.band(h.facts, 8) ~= 0 then kind = kind + 64 end
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
        call("zadd", base .. (plain and "d" or "o"), string.format("%d", at), key)
      end
      if h.first ~= h.was then call("zadd", base .. "f:" .. (h.lane or h.replica), h.first, key) end
      h.queue = queue
      local raw = pack(HEAD, h.lane and BATCH_VERSION or 1,
        h.facts, h.remembered, h.fresh, h.leased, h.given, h.batch, h.outcomes, h.queue,
        h.n, h.hs, h.gs, h.gn, h.covn, h.pinn,
        h.bytes, h.first, h.last, h.seen, h.arr, h.at, h.token, h.covup, h.pinup,
        h.replica, h.owner)
      if h.was then
        call("setrange", base .. "m:" .. key, "0", raw)
      else
        call("set", base .. "m:" .. key, raw, "px", TTL)
        call("pexpire", base .. "p:" .. key, TTL)
      end
    end
  end
  for base, of in pairs(tallies) do
    for number, more in pairs(of) do
      local a, b, c, d, e, f, g, h, m = unpack(more)
      local raw, whose = tally_before(base, number), NOBODY
      if raw then
        local a1, b1, c1, d1, e1, f1, g1, h1, m1
        a1, b1, c1, d1, e1, f1, g1, h1, whose, m1 = unpk(TALLY, raw)
        a, b, c, d, e, f, g, h, m = a + a1, b + b1, c + c1, d + d1, e + e1, f + f1, g + g1, h + h1, m + m1
      end
      local now = pack(TALLY, a, b, c, d, e, f, g, h, whose, m)
      -- A newer version may know more of it.
      if raw and #raw > TALLY_BYTES then now = now .. raw:sub(TALLY_BYTES + 1) end
      if type(number) == "number" then
        call("hset", base .. "s", word_of(number), now)
      else
        call("hset", base .. "w", number, now)
        call("pexpire", base .. "w", TTL)
        call("pexpire", base .. "f:" .. number, TTL)
      end
    end
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
