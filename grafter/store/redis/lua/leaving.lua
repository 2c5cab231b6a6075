-- What of a key goes, and what is left of it. It is not with what every script begins with: Redis makes each function anew
-- whenever a script runs, and those that only store would pay for these.

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
