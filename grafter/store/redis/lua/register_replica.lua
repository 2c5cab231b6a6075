-- Who works on this store. KEYS: the totals of its bucket. ARGV: bucket, token of who asks, for how long (milliseconds; 0:
-- it leaves, and may come back), what it notes of its books (two numbers, or nothing: they stay), the numbers to take
-- unless somebody lives under them, those to give up, and those for which the notes are the last word (a byte each). Who
-- has no number gets the lowest under which nobody lives.
-- The notes of who has not all of those numbers, or who names none, are noted only where it had noted before: what it has
-- taken now it has not begun, and whoever does not hear the answer has to be told the same again.
-- The answer: whether it had one before (0: no; 1: yes, and had noted something under it; 2: yes, but had not), the two
-- notes, who has been heard of lately (their tokens), then each number, whether it is its own (1), another's that lives
-- (2) or of one that is dead (0), and of its own that it has not noted yet the token of who had noted something under it
-- last, or nothing. What that one had noted is kept for it, should it come back.
local base, token, stay = base_of(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local wanted, given_up, closed = ARGV[6], ARGV[7], ARGV[8]
allow_past_maxmemory(KEYS[1])
local name = base .. "replicas"
-- Version, token, until when it lives, its two notes, whether it has noted them under this number, and until then whose
-- the number was: that one may come back, and both have to hear of each other whoever dies in between.
local RECORD = "<Bc8dddBc8"
local RECORD_BYTES = 42
local DEAD, OWN, LIVES = 0, 1, 2
-- A day, as registration.py keeps the rest of it.
local KEPT_MS = 86400000
local time = call("time")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, own, heard, before, noted, was = {}, {}, {token}, {}, {}, {}
local taken, handed, had = 0, 0, 0
local all = call("hgetall", name)
for i = 1, #all, 2 do
  local number, raw = tonumber(all[i]), all[i + 1]
  -- A newer version's is somebody's.
  local found = LIVES
  if raw:byte(1) == 1 then
    -- One that an older version wrote ends before whether it has notes, and has some; or before whose it was.
    if #raw < RECORD_BYTES - 8 then raw = raw .. "\1" end
    if #raw < RECORD_BYTES then raw = raw .. NOBODY end
    local _, whose, ends, t, h, was_noted
    _, whose, ends, t, h, was_noted, was[number] = unpk(RECORD, raw)
    if whose == token then
      found, taken, handed = OWN, t, h
      noted[number] = was_noted
      if was_noted == 1 then had = 1 elseif had == 0 then had = 2 end
    elseif ends <= now then
      found = DEAD
      -- What it had taken and not noted is in none of its books.
      if was_noted == 1 then
        was[number] = whose
        before[number] = {t, h}
      end
    end
    if whose ~= token and ends - now > stay / 2 then heard[#heard + 1] = whose end
  end
  known[number] = found
end
for number, found in pairs(known) do
  if found == OWN then
    if given_up:find(string.char(number), 1, true) then
      call("hdel", name, number)
      known[number] = nil
    else
      own[#own + 1] = number
    end
  end
end
local all_noted = closed ~= ""
for i = 1, #closed do
  if known[closed:byte(i)] ~= OWN then all_noted = false end
end
if ARGV[4] ~= "" then
  taken, handed = tonumber(ARGV[4]), tonumber(ARGV[5])
  -- What went to others stands in these. In those of a look it does not yet, for it is about to hear of that.
  if all_noted then call("unlink", base .. "n:" .. token) end
end
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
  if before[number] then
    local kept = base .. "n:" .. was[number]
    call("hset", kept, number, pack("<dd", unpack(before[number])))
    call("pexpire", kept, KEPT_MS)
  end
  local is_noted = ARGV[4] ~= "" and all_noted and 1 or noted[number] or 0
  if is_noted == 1 or was[number] == token then was[number] = NOBODY end
  call("hset", name, number, pack(RECORD, 1, token, stay > 0 and now + stay or 0, taken, handed, is_noted, was[number] or NOBODY))
end
call("pexpire", name, TTL)
local answer = {had, string.format("%.0f", taken), string.format("%.0f", handed), table.concat(heard)}
for number, found in pairs(known) do
  answer[#answer + 1] = number
  answer[#answer + 1] = found
  answer[#answer + 1] = found == OWN and (was[number] or NOBODY) ~= NOBODY and was[number] or ""
end
return answer
