-- About plain batches. KEYS: the totals of each bucket. ARGV: what, token, exporter, then for each bucket and key.
--   intend  note one more exporter                  split  make claims of its keys
-- The answer: 1, or 0 when some of it is no longer the owner's; then nothing was changed.
local what, token, name = ARGV[1], ARGV[2], ARGV[3]
allow_past_maxmemory(KEYS[1])
local bases = {}
for i = 4, #ARGV, 2 do
  local base = base_of(ARGV[i])
  if not bases[base] then
    local exporter = call("get", base .. "b:" .. token)
    if not exporter or exporter:sub(1, 1) == "!" then return 0 end
    bases[base] = exporter
  end
end
if what == "intend" then
  for base, before in pairs(bases) do
    call("set", base .. "b:" .. token, before == "" and name or before .. "\n" .. name, "px", TTL)
  end
  return 1
end
local number = tonumber(token)
local found = {}
for i = 4, #ARGV, 2 do
  local h = load_head(base_of(ARGV[i]), ARGV[i + 1])
  if not owned(h, number) then return 0 end
  found[#found + 1] = h
end
local answer = {}
for _, h in ipairs(found) do
  take_intent(h, bases[h.base])
  h.batch = 0
  h.dirty = true
end
flush()
for base in pairs(bases) do call("unlink", base .. "b:" .. token) end
for _, h in ipairs(found) do
  local outcomes = h.outcomes == 1 and call("hgetall", h.base .. "x:" .. h.key) or {}
  answer[#answer + 1] = {call("get", h.base .. "m:" .. h.key), outcomes, {}, sizes_of(h), 0}
end
return answer
