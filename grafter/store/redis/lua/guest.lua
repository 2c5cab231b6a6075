-- About one guest's own key. ARGV: what, bucket, key, and
--   drop_moved  up_to, token (0: whoever owns it), host, order, who moves: its parts up to there are held under the host
--           now; the answer: their spans
--   moving  token, host, order: may the owner move it? Its link is known from now on
--   relink  host or nothing, order: what its link is by what is left of it
local what, base, key = ARGV[1], base_of(ARGV[2]), ARGV[3]
allow_past_maxmemory(KEYS[1])

local function link(host, since, only)
  local name = base .. "l:" .. key
  local raw = call("get", name)
  if not raw or raw:byte(1) ~= 1 then return end
  local _, has, old, parts = unpk(LINK, raw)
  if only and has == 1 and old == -1 then return end
  call("set", name, pack(LINK, 1, host ~= "" and 1 or 0, since, parts) .. host, "px", TTL)
end

if what == "relink" then
  link(ARGV[4], tonumber(ARGV[5]), true)
  return 1
end
if what == "moving" then
  local h = load_head(base, key)
  if not owned(h, tonumber(ARGV[4])) or h.pinn > 0 or h.gn == 0 then return 0 end
  link(ARGV[5], tonumber(ARGV[6]))
  return h.arr
end
local up_to, token = tonumber(ARGV[4]), tonumber(ARGV[5])
set_replica(ARGV[8])
local h = load_head(base, key)
if not h or (token ~= 0 and not owned(h, token)) then return 0 end
check_numbers(base)
link(ARGV[6], tonumber(ARGV[7]))
local list = call("lrange", base .. "p:" .. key, 0, -1)
local facts = call("lrange", base .. "g:" .. key, 0, -1)
local stay, stay_facts = {}, {}
for position, part in ipairs(list) do
  local number = unpk("<I8", part, 17)
  if position <= h.pinn or number > up_to then
    stay[#stay + 1] = part
    stay_facts[#stay_facts + 1] = facts[position]
  end
end
call("unlink", base .. "p:" .. key, base .. "g:" .. key)
for position, part in ipairs(stay) do
  call("rpush", base .. "p:" .. key, part)
  call("rpush", base .. "g:" .. key, stay_facts[position])
end
-- A claim that was handed out before covers none of what is left, unless it was begun to be sent.
h.covn = h.pinn
local had = h.hs + h.gs
resum(h)
if not h.gone then
  call("pexpire", base .. "p:" .. key, TTL)
  call("pexpire", base .. "g:" .. key, TTL)
end
-- They came twice, and stay once: nothing was put there that is still held.
local mine = tally(base, ME)
mine[MOVED] = mine[MOVED] + had - h.hs - h.gs
flush()
return had - h.hs - h.gs
