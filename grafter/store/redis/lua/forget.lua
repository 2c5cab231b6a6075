-- Forget the oldest memories of some buckets, in the order in which they came, while there are too many or their time
-- is over. KEYS: the totals of each bucket. ARGV: now, how many are too many, the order to stop before (or nothing), then
-- the buckets. The answer: how many went, then the totals of each bucket.
local now, excess, stop = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
allow_past_maxmemory(KEYS[1])
local heads = {}

local function head(base)
  local found = call("zrange", base .. "z", 0, 0, "withscores")
  if not found[1] then
    heads[base] = nil
    return
  end
  heads[base] = {found[1], tonumber(found[2])}
end

for i = 4, #ARGV do head(base_of(ARGV[i])) end
local went = 0
while went < 1000 do
  local base, oldest
  for candidate, entry in pairs(heads) do
    if not oldest or entry[2] < oldest[2] then base, oldest = candidate, entry end
  end
  if not oldest or (stop and oldest[2] >= stop) then break end
  local name = base .. "y:" .. oldest[1]
  if excess <= 0 then
    local raw = call("getrange", name, 0, 9)
    if raw ~= "" then
      if raw:byte(1) ~= 1 then break end
      local _, _, at = unpk(MEMORY, raw)
      if now < at + REMEMBER then break end
    end
  end
  local raw = call("getrange", name, 0, 255)
  local digest = #raw > 60 and digest_in(raw, MEMORY_BYTES + 1 + (raw:byte(2) == 1 and HOST_KEY_BYTES or 0))
  if digest and call("hincrby", base .. "w:" .. digest, "n", -1) <= 0 then call("unlink", base .. "w:" .. digest) end
  call("unlink", name)
  call("zrem", base .. "z", oldest[1])
  excess = excess - 1
  went = went + 1
  head(base)
end
local answer = {went}
for i = 4, #ARGV do answer[#answer + 1] = totals_of(base_of(ARGV[i])) end
return answer
