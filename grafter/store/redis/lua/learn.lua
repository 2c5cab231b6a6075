-- Take note of parts of guests that are about to be stored. ARGV: now, then for each guest bucket, key, number of
-- parts, the host that they name or nothing, and their order. The answer, for each: host or nothing, the parts held
-- under the guest's own key that may move, and how many of its parts stay there.
local now = tonumber(ARGV[1])
local answer = {}
for i = 2, #ARGV, 5 do
  local base, key = base_of(ARGV[i]), ARGV[i + 1]
  local raw = call("get", base .. "l:" .. key)
  local has, since, parts, host = 0, 0, 0, ""
  if raw then
    if raw:byte(1) ~= 1 then error("NEWER a link") end
    local _
    _, has, since, parts = unpk(LINK, raw)
    host = raw:sub(15, 30)
  end
  if has == 0 and parts == 0 then
    local memory = call("get", base .. "y:" .. key)
    if memory and memory:byte(1) == 1 then
      local _, named, at = unpk(MEMORY, memory)
      if named == 1 and now < at + REMEMBER then
        has, since, host = 1, -1, memory:sub(11, 26)
      end
    end
  end
  if has == 0 and ARGV[i + 3] ~= "" then has, since, host = 1, tonumber(ARGV[i + 4]), ARGV[i + 3] end
  call("set", base .. "l:" .. key, pack(LINK, 1, has, since, parts + tonumber(ARGV[i + 2])) .. host, "px", TTL)
  local h = load(base, key)
  answer[#answer + 1] = has == 1 and host or ""
  answer[#answer + 1] = h and h.n - h.pinn or 0
  answer[#answer + 1] = h and h.pinn or 0
end
return answer
