-- Forget the oldest memories of some buckets, in the order in which they came, while there are too many, they are too
-- large, or their time is over. KEYS: the totals of each bucket. ARGV: now, how many and how many bytes are too many, the
-- order to stop before (or nothing), then the buckets. The answer: how many went by their time, by number and by bytes,
-- then how many entries of replaced memories stood before them, then the totals of each bucket.
local now, excess, heavy, stop = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
allow_past_maxmemory(KEYS[1])
local heads = {}

-- The oldest memory of a bucket: its order, the key of one that an older version left, and since when it is kept: "gone"
-- where it is there no more, "" where only a newer version knows.
local function find_head(base)
  local head
  local entry = first_entry(base)
  if entry then
    local order, at = unpk(ENTRY, entry)
    head = {order = order, at = at}
  end
  if older_of(base) > 0 then
    local oldest = call("zrange", base .. "z", 0, 0, "withscores")
    local order = tonumber(oldest[2])
    if order and (not head or order < head.order) then
      local at = since_of_older(base, oldest[1])
      head = {order = order, at = tonumber(at) or at, older = oldest[1]}
    end
  end
  heads[base] = head
end

local went, dead = {0, 0, 0}, 0
local BY_TIME, BY_NUMBER, BY_BYTES = 1, 2, 3
for i = 5, #ARGV do find_head(base_of(ARGV[i])) end
for _ = 1, 1000 do
  local base, oldest
  for candidate, head in pairs(heads) do
    if not oldest or head.order < oldest.order then base, oldest = candidate, head end
  end
  if not oldest or (stop and oldest.order >= stop) then break end
  local over = oldest.at == "gone" or (oldest.at ~= "" and now >= oldest.at + REMEMBER)
  local why = over and BY_TIME or excess > 0 and BY_NUMBER or heavy > 0 and BY_BYTES
  if not why then break end
  local bytes, digest = 0, nil
  if oldest.older then
    forget_older(base, oldest.older)
  else
    bytes, digest = forget_first(base)
  end
  if bytes then
    if digest and heavy > 0 then bytes = bytes + bytes_gone_with(base, digest) end
    heavy, excess = heavy - bytes, excess - 1
    went[why] = went[why] + 1
  else
    dead = dead + 1
  end
  find_head(base)
end
flush_memories({})
local answer = {went, dead}
for i = 5, #ARGV do answer[#answer + 1] = totals_of(base_of(ARGV[i])) end
return answer
