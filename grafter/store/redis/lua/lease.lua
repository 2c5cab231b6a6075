-- What the owner of keys says of them. KEYS: the totals of each bucket. ARGV: what, a word, then for each bucket, key,
-- token and a time.
--   postpone  the time: when it is due again; the word: "untouched" where nobody was at work on it
--   renew  the time: when the lease ends       abandon  give it back
--   outcome   the word: the exporter, and after a zero byte the outcome
-- The answer: a byte for each, 1 where it was done.
local what, word = ARGV[1], ARGV[2]
allow_past_maxmemory(KEYS[1])
local answer = {}
for i = 3, #ARGV, 4 do
  local base, key, token, at = base_of(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local h = readable(base, key)
  if not owned(h, token) then
    answer[#answer + 1] = "0"
  else
    h.dirty = true
    if what == "postpone" then
      h.leased, h.token, h.given, h.batch = 0, 0, 1, 0
      h.at = at
      if h.fresh == 1 then h.at = math.min(at, (compute_due(h))) end
      h.fresh = 0
      if word ~= "untouched" then clear_suspicion(h) end
      for _, list in ipairs({"m:", "p:", "g:", "x:", "l:"}) do call("pexpire", base .. list .. key, TTL) end
      for _, ref in ipairs(shared_of(h)) do call("pexpire", shared_name(ref), TTL) end
      if has(h, SHARED) then call("pexpire", base .. "v:" .. key, TTL) end
    elseif what == "renew" then
      h.at = at
    elseif what == "abandon" then
      if h.batch == 1 then
        local exporter = call("get", base .. "b:" .. string.format("%.0f", token))
        if exporter then take_intent(h, exporter:match("^!?(.*)$")) end
      end
      h.leased, h.token, h.given, h.batch, h.fresh = 0, 0, 0, 0, 0
    else
      local exporter, outcome = word:match("^(.-)%z(.*)$")
      local name = base .. "x:" .. key
      call("hset", name, exporter, outcome)
      call("pexpire", name, TTL)
      h.outcomes = 1
      local stands = false
      for _, value in ipairs(call("hvals", name)) do
        if value ~= "withdrawn" then stands = true end
      end
      if not stands then
        h.pinn = 0
      elseif h.pinn == 0 then
        h.pinn, h.pinup = h.covn, h.covup
      end
    end
    answer[#answer + 1] = "1"
  end
end
flush()
return table.concat(answer)
