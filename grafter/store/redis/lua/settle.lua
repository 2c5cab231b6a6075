-- Forget and remember. KEYS: the totals of each bucket. ARGV: now, the order of the first memory, the token of a plain
-- batch or 0, who settles, then commands:
--   s bucket key token           forget what the claim covers; when it is not owned, what follows up to the next s is
--                                left out, and with the token of a plain batch everything is
--   b bucket key blob            both for a key of the batch that is settled
--   y bucket key host blob       remember (host: nothing, or a guest's)
--   r bucket digest resource     what memories that follow have in common
--   u bucket key parts           so many parts of a guest went
-- The answer: a byte a claim, how many parts of which guests went (own key, number), the guests whose link has to be
-- found anew (own key, host), then for each bucket that was touched its totals.
local now, number, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
set_replica(ARGV[4])
allow_past_maxmemory(KEYS[1])
local done, went, doubtful, touched = {}, {}, {}, {}

local function bucket_of(base)
  return base:sub(#P + 4, -3)
end

local function remove_parts(base, key, parts)
  local name = base .. "l:" .. key
  local raw = call("get", name)
  if not raw or raw:byte(1) ~= 1 then return end
  local _, has, since, left = unpk(LINK, raw)
  left = left - parts
  if left <= 0 then
    call("unlink", name)
    return
  end
  call("set", name, pack(LINK, 1, has, since, left) .. raw:sub(LINK_BYTES + 1), "px", TTL)
  if has == 1 and since ~= -1 then
    doubtful[#doubtful + 1] = key
    doubtful[#doubtful + 1] = host_at(raw, LINK_BYTES + 1)
  end
end

local function settle(h)
  local base, key = h.base, h.key
  local gone = {}
  touched[base] = true
  if h.gn > 0 then
    local leave = {}
    for i, part in ipairs(h.n > h.covn and call("lrange", base .. "p:" .. key, 0, h.covn - 1) or {}) do
      leave[i] = part:byte(2) >= 128
    end
    local facts = call("lrange", base .. "g:" .. key, 0, -1)
    local guests = h.gn
    if h.n > h.covn then
      guests = 0
      for _, is_guest in ipairs(leave) do
        if is_guest then guests = guests + 1 end
      end
      call("ltrim", base .. "g:" .. key, guests, -1)
    end
    for i = 1, guests do
      local own = guest_of_facts(facts[i])
      if not gone[own] then gone[#gone + 1] = own end
      gone[own] = (gone[own] or 0) + 1
    end
  end
  if h.n <= h.covn then
    count(h, -h.hs - h.gs, -h.bytes)
    drop(h)
  else
    call("ltrim", base .. "p:" .. key, h.covn, -1)
    if h.outcomes == 1 then call("unlink", base .. "x:" .. key) end
    clear_suspicion(h)
    h.outcomes, h.pinn, h.leased, h.token, h.fresh, h.batch = 0, 0, 0, 0, 0, 0
    h.given, h.at = 1, now
    resum(h)
  end
  for _, own in ipairs(gone) do
    went[#went + 1] = own
    went[#went + 1] = gone[own]
  end
end

local function remember(base, key, host, blob)
  keep_memory(base, key, host, blob, number, now)
  number = number + 1
  touched[base] = true
  local h = readable(base, key)
  if h then
    h.remembered = 1
    h.dirty = true
  end
  if host ~= "" then
    local raw = call("get", base .. "l:" .. key)
    if raw and raw:byte(1) == 1 then
      local _, _, _, parts = unpk(LINK, raw)
      if parts > 0 then call("set", base .. "l:" .. key, pack(LINK, 1, 1, -1, parts) .. host, "px", TTL) end
    end
  end
end

local lists, resources = {}, {}
local i, skip = 5, false
while i <= #ARGV do
  local what = ARGV[i]
  if what == "b" or what == "s" then
    local base = base_of(ARGV[i + 1])
    if what == "b" and not owned(readable(base, ARGV[i + 2]), batch) then return {"0", {}, {}, {}} end
    if not sure_of[base] then check_numbers(base) end
  end
  i = i + (what == "y" and 5 or 4)
end
i = 5
while i <= #ARGV do
  local what, base, key = ARGV[i], base_of(ARGV[i + 1]), ARGV[i + 2]
  if what == "b" then
    if not lists[base] then
      call("unlink", base .. "b:" .. ARGV[3])
      lists[base] = true
    end
    settle(load_head(base, key))
    remember(base, key, "", ARGV[i + 3])
    done[#done + 1] = "1"
    i = i + 4
  elseif what == "s" then
    local h = readable(base, key)
    skip = not owned(h, tonumber(ARGV[i + 3]))
    done[#done + 1] = skip and "0" or "1"
    if not skip then settle(h) end
    i = i + 4
  elseif what == "y" then
    if not skip then remember(base, key, ARGV[i + 3], ARGV[i + 4]) end
    i = i + 5
  elseif what == "r" then
    resources[base .. key] = ARGV[i + 3]
    i = i + 4
  else
    remove_parts(base, key, tonumber(ARGV[i + 3]))
    i = i + 4
  end
end
flush()
flush_memories(resources)
local totals = {}
for base in pairs(lightened) do touched[base] = true end
for base in pairs(touched) do
  totals[#totals + 1] = bucket_of(base)
  totals[#totals + 1] = totals_of(base)
end
return {table.concat(done), went, doubtful, totals}
