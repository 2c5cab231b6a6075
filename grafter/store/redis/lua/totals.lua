-- Memories, order and moment of the oldest, their bytes, and how many of them an older version left; then for each replica
-- that has a tally its number, the tally, and when the first part of its oldest key came; then how many exporters have a
-- backlog here, and for each the same by its name.
local function totals_of(base)
  local order, at = "", ""
  local entry = first_entry(base)
  if entry then
    local _
    order, at = unpk(ENTRY, entry)
    at = string.format("%.0f", at)
  end
  local counts = counts_of(base)
  -- There may be fewer since.
  local left = older_of(base) > 0 and call("zcard", base .. "z") or 0
  if left > 0 then
    local head = call("zrange", base .. "z", 0, 0, "withscores")
    if order == "" or tonumber(head[2]) < order then order, at = tonumber(head[2]), since_of_older(base, head[1]) end
  end
  if order ~= "" then order = string.format("%.0f", order) end
  local answer = {counts.number + left, order, at, counts.bytes, left}
  local found = {}
  for _, hash in ipairs({"s", "w"}) do
    local all = call("hgetall", base .. hash)
    for i = 1, #all, 2 do
      local held = unpk("<d", all[i + 1], 25)
      local oldest = held > 0 and call("zrange", base .. "f:" .. all[i], 0, 0, "withscores") or {}
      found[#found + 1] = all[i]
      found[#found + 1] = all[i + 1]
      found[#found + 1] = oldest[2] or ""
    end
    answer[#answer + 1] = #found / 3
  end
  for i = 1, #found do answer[#answer + 1] = found[i] end
  return answer
end
