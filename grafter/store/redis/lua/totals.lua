-- Memories, order and moment of the oldest; then for each replica that has a tally its number, the tally, and when the
-- first part of its oldest key came.
local function totals_of(base)
  local head = call("zrange", base .. "z", 0, 0, "withscores")
  local at = ""
  if head[1] then
    local raw = call("getrange", base .. "y:" .. head[1], 0, 9)
    if raw ~= "" and raw:byte(1) == 1 then
      local _
      _, _, at = unpk(MEMORY, raw)
      at = string.format("%.0f", at)
    else
      at = "gone"
    end
  end
  local answer = {call("zcard", base .. "z"), head[2] or "", at}
  local all = call("hgetall", base .. "s")
  for i = 1, #all, 2 do
    local held = unpk("<d", all[i + 1], 25)
    local oldest = held > 0 and call("zrange", base .. "f:" .. all[i], 0, 0, "withscores") or {}
    answer[#answer + 1] = all[i]
    answer[#answer + 1] = all[i + 1]
    answer[#answer + 1] = oldest[2] or ""
  end
  return answer
end
