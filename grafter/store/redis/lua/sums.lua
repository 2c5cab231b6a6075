-- Keys, oldest, spans, bytes; memories, order and moment of the oldest.
local function sums_of(base)
  local oldest = call("zrange", base .. "f", 0, 0, "withscores")
  local head = call("zrange", base .. "z", 0, 0, "withscores")
  local held = call("hmget", base .. "s", "spans", "bytes")
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
  return {call("zcard", base .. "f"), oldest[2] or "", held[1] or "0", held[2] or "0", call("zcard", base .. "z"),
    head[2] or "", at}
end
