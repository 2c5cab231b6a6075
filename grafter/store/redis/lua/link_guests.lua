-- Take note of parts of guests that are about to be stored. ARGV: now, then for each guest bucket, key, number of
-- parts, the host that they name or nothing, and their order. The answer, for each: host or nothing, the parts held
-- under the guest's own key that may move, and how many of its parts stay there.
local now = tonumber(ARGV[1])
local answer = {}
for i = 2, #ARGV, 5 do
  local base, key = base_of(ARGV[i]), ARGV[i + 1]
  local has, since, parts, host = link_of(base, key, now, ARGV[i + 3], ARGV[i + 4])
  call("set", base .. "l:" .. key, pack(LINK, 1, has, since, parts + tonumber(ARGV[i + 2])) .. host, "px", TTL)
  local h = load_head(base, key)
  answer[#answer + 1] = has == 1 and host_at(host, 1) or ""
  answer[#answer + 1] = h and h.n - h.pinn or 0
  answer[#answer + 1] = h and h.pinn or 0
end
return answer
