-- Hand out due keys. KEYS: the sums of each bucket. ARGV: now, lease, token, plain (1: as one bundle, with that token
-- for all; 0: one by one, with that token and the following ones), then for each bucket and key. The answer, for each:
-- its head, outcomes and guests' facts; or nothing when it is not to be had.
local now, lease, token, plain = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == "1"
past_limit(KEYS[1])
local answer, taken, bases = {}, {}, {}
for i = 5, #ARGV, 2 do
  local base, key = base_of(ARGV[i]), ARGV[i + 1]
  local fine, h = pcall(load, base, key)
  local found = {}
  if not fine then
    -- Written by a newer version, or not by grafter: somebody else's to look at.
    found = "?"
  elseif not h then
    call("zrem", base .. "d", key)
    call("zrem", base .. "o", key)
    for _, number in ipairs(call("hkeys", base .. "s")) do call("zrem", base .. "f:" .. number, key) end
  else
    local at, is_plain = due(h)
    if at <= now and (not plain or is_plain) then
      if h.leased == 1 and h.bundle == 1 then
        local name = base .. "b:" .. string.format("%.0f", h.token)
        local exporter = call("get", name)
        if exporter then
          if exporter:sub(1, 1) == "!" then
            exporter = exporter:sub(2)
          else
            call("set", name, "!" .. exporter, "px", TTL)
          end
          if exporter ~= "" then
            call("hset", base .. "x:" .. key, exporter, "intended")
            call("pexpire", base .. "x:" .. key, TTL)
            h.outcomes, h.pinn, h.pinup = 1, h.covn, h.covup
          end
        end
      end
      h.leased, h.given, h.fresh, h.bundle, h.at, h.token = 1, 0, 0, plain and 1 or 0, now + lease, token
      if not plain then token = token + 1 end
      if h.pinn > 0 then
        h.covn, h.covup = h.pinn, h.pinup
      else
        h.covn, h.covup = h.n, h.arr
      end
      h.dirty = true
      taken[#answer + 1] = h
      bases[base] = true
    end
  end
  answer[#answer + 1] = found
end
if plain then
  for base in pairs(bases) do call("set", base .. "b:" .. string.format("%.0f", token), "", "px", TTL) end
end
flush()
for position, h in pairs(taken) do
  local name = h.base .. "m:" .. h.key
  local outcomes = h.outcomes == 1 and call("hgetall", h.base .. "x:" .. h.key) or {}
  local guests = h.gn > 0 and call("lrange", h.base .. "g:" .. h.key, 0, -1) or {}
  answer[position] = {call("get", name), outcomes, guests}
end
return answer
