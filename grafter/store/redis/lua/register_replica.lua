-- Who works on this store. KEYS: the totals of its bucket. ARGV: bucket, token of who asks, for how long (milliseconds; 0:
-- it leaves, and may come back), what it notes of its books (two numbers, or nothing: they stay), the numbers to take unless somebody lives
-- under them, and those to give up (a byte each). Who has no number gets the lowest under which nobody lives.
-- The answer: whether it had one before, the two notes, who has been heard of lately (their tokens), then each number,
-- whether it is its own (1), another's that lives (2) or of one that is dead (0), and of one that was taken now the token
-- of who was silent under it, or nothing.
local base, token, stay = base_of(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local wanted, given_up = ARGV[6], ARGV[7]
allow_past_maxmemory(KEYS[1])
local name = base .. "replicas"
local RECORD = "<Bc8ddd"
local DEAD, OWN, LIVES = 0, 1, 2
local time = call("time")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, own, heard, silent = {}, {}, {token}, {}
local taken, handed = 0, 0
local all = call("hgetall", name)
for i = 1, #all, 2 do
  local number, raw = tonumber(all[i]), all[i + 1]
  -- A newer version's is somebody's.
  local found = LIVES
  if raw:byte(1) == 1 then
    local _, whose, ends, t, h = unpk(RECORD, raw)
    if whose == token then
      found, taken, handed = OWN, t, h
    elseif ends <= now then
      found = DEAD
      if ends > 0 then silent[number] = whose end
    end
    if whose ~= token and ends - now > stay / 2 then heard[#heard + 1] = whose end
  end
  known[number] = found
end
local had = 0
for number, found in pairs(known) do
  if found == OWN then
    had = 1
    if given_up:find(string.char(number), 1, true) then
      call("hdel", name, number)
      known[number] = nil
    else
      own[#own + 1] = number
    end
  end
end
if ARGV[4] ~= "" then taken, handed = tonumber(ARGV[4]), tonumber(ARGV[5]) end
if stay > 0 then
  if #own == 0 then
    for number = 1, 255 do
      if (known[number] or DEAD) == DEAD then
        own[1] = number
        break
      end
    end
  end
  for i = 1, #wanted do
    local number = wanted:byte(i)
    if (known[number] or DEAD) == DEAD then own[#own + 1] = number end
  end
end
for _, number in ipairs(own) do
  known[number] = OWN
  call("hset", name, number, pack(RECORD, 1, token, stay > 0 and now + stay or 0, taken, handed))
end
call("pexpire", name, TTL)
local answer = {had, string.format("%.0f", taken), string.format("%.0f", handed), table.concat(heard)}
for number, found in pairs(known) do
  answer[#answer + 1] = number
  answer[#answer + 1] = found
  answer[#answer + 1] = found == OWN and silent[number] or ""
end
return answer
