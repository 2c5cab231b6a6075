-- Hand out due keys. KEYS: the totals of each bucket. ARGV: now, lease, token, plain (1: as one batch, with that token
-- for all; 0: one by one, with that token and the following ones), spans and bytes that a batch may have, who takes them
-- (8 bytes), those of all who live (or "?": not known), 1 where suspects are wanted, and nothing else, 2 where all is
-- wanted that nobody owns, postponed or not, then for each bucket and key.
-- The answer, for each: its head, outcomes, guests' facts, large envelopes with their bytes, and how many died of it; or
-- nothing when it is not to be had. In a batch its head alone, or "" when it is not to be had, or "-" when the batch was
-- full before. Of a suspect, where none is wanted, "!" and how many died of it: it is not handed out.
local now, lease, token, plain = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == "1"
local spans_left, bytes_left, full = tonumber(ARGV[5]), tonumber(ARGV[6]), false
local owner, living, suspects, all = ARGV[7], ARGV[8], ARGV[9] == "1", ARGV[9] == "2"
local alive = {}
for i = 1, #living - 7, 8 do alive[living:sub(i, i + 7)] = true end
local in_batch = {}
allow_past_maxmemory(KEYS[1])
local answer, taken, bases = {}, {}, {}

-- Whether it no longer fits into the batch; the first one always does.
local function is_over(h)
  if not plain then return false end
  local bytes, refs = h.bytes, shared_of(h)
  for _, ref in ipairs(refs) do
    if in_batch[ref] then bytes = bytes - call("hstrlen", shared_name(ref), "b") end
  end
  full = next(taken) ~= nil and (h.hs > spans_left or bytes > bytes_left)
  spans_left, bytes_left = spans_left - h.hs, bytes_left - bytes
  for _, ref in ipairs(refs) do in_batch[ref] = true end
  return full
end

-- Its lease has ended, and whoever had it is dead.
local function suspect(h)
  local name = h.base .. "k:" .. h.key
  call("incr", name)
  call("pexpire", name, TTL)
  h.facts = bit.bor(h.facts, SUSPECT)
end

for i = 10, #ARGV, 2 do
  if full then break end
  local base, key = base_of(ARGV[i]), ARGV[i + 1]
  local fine, h = pcall(load_head, base, key)
  local found = plain and "" or {}
  if not fine then
    -- Written by a newer version, or not by grafter: somebody else's to look at.
    found = "?"
  elseif not h then
    call("zrem", base .. "d", key)
    call("zrem", base .. "o", key)
    for _, number in ipairs(call("hkeys", base .. "s")) do call("zrem", base .. "f:" .. number, key) end
    local lane = waits_for(key)
    if lane then call("zrem", base .. "f:" .. lane, key) end
  else
    local at, is_plain = due(h)
    local late = at <= now and h.leased == 1 and h.owner ~= owner and h.owner ~= NOBODY
    if late and living ~= "?" and not alive[h.owner] and not h.lane then suspect(h) end
    if all and h.leased == 0 then at = math.min(at, now) end
    local wanted = all or has(h, SUSPECT) == suspects
    if at <= now and (wanted and not plain or has(h, SUSPECT)) and h.leased == 1 and h.batch == 1 then
      local name = base .. "b:" .. string.format("%.0f", h.token)
      local exporter = call("get", name)
      if exporter then
        if exporter:sub(1, 1) == "!" then
          exporter = exporter:sub(2)
        else
          call("set", name, "!" .. exporter, "px", TTL)
        end
        take_intent(h, exporter)
      end
    end
    if at <= now and has(h, SUSPECT) and not suspects and not all then
      h.leased, h.given, h.fresh, h.batch, h.at, h.token = 0, 1, 0, 0, math.min(at, now), 0
      h.dirty = true
      found = "!" .. (call("get", base .. "k:" .. key) or "1")
    elseif at <= now and wanted and (not plain or is_plain) and not is_over(h) then
      h.owner = owner
      h.leased, h.given, h.fresh, h.batch, h.at, h.token = 1, 0, 0, plain and 1 or 0, now + lease, token
      if not plain then token = token + 1 end
      if h.pinn > 0 then
        h.covn, h.covup = h.pinn, h.pinup
      else
        h.covn, h.covup = h.n, h.arr
      end
      h.dirty = true
      taken[#answer + 1] = h
      bases[base] = true
    elseif h.queue ~= (is_plain and PLAIN or ODD) then
      -- Filed under other settings than this replica's; where it is nobody would take it.
      h.dirty = true
    end
  end
  answer[#answer + 1] = full and "-" or found
end
for i = #answer + 1, (#ARGV - 9) / 2 do answer[i] = "-" end
if plain then
  for base in pairs(bases) do call("set", base .. "b:" .. string.format("%.0f", token), "", "px", TTL) end
end
flush()
for position, h in pairs(taken) do
  local head = call("get", h.base .. "m:" .. h.key)
  if plain then
    answer[position] = head
  else
    local outcomes = h.outcomes == 1 and call("hgetall", h.base .. "x:" .. h.key) or {}
    local guests = h.gn > 0 and call("lrange", h.base .. "g:" .. h.key, 0, -1) or {}
    local deaths = has(h, SUSPECT) and tonumber(call("get", h.base .. "k:" .. h.key) or "1") or 0
    answer[position] = {head, outcomes, guests, sizes_of(h), deaths}
  end
end
return answer
