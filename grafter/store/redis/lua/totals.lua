-- Of the resource that a memory shares (core/memory_edits.py): the digest in a blob that begins at a byte, or nothing.
local function digest_in(raw, first)
  if #raw < first + 43 or raw:byte(first) ~= 84 or raw:byte(first + 1) ~= 1 or bit.band(raw:byte(first + 2), 4) == 0 then return nil end
  local state = unpk(">I4", raw, first + 24)
  local from = first + 44 + raw:byte(first + 3) + state
  local digest = raw:sub(from, from + 15)
  return #digest == 16 and digest or nil
end

-- Memories, order and moment of the oldest; then for each replica that has a tally its number, the tally, and when the
-- first part of its oldest key came; then how many exporters have a backlog here, and for each the same by its name.
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
