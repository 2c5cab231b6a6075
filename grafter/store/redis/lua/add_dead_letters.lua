-- Put dead letters into the box. KEYS: the totals of its bucket. ARGV: bucket, bytes that the box may hold, how long it is
-- kept (milliseconds), then the letters, the oldest first. The answer: the spans of those that had to go for them.
local base, limit = base_of(ARGV[1]), tonumber(ARGV[2])
allow_past_maxmemory(KEYS[1])
local box, size = base .. "letters", base .. "letters:bytes"
local held = tonumber(call("get", size) or "0")
for i = 4, #ARGV do
  call("lpush", box, ARGV[i])
  held = held + #ARGV[i]
end
local gone = 0
while held > limit and call("llen", box) > 1 do
  local letter = call("rpop", box)
  held = held - #letter
  if letter:byte(1) == 1 then gone = gone + unpk("<I4", letter, 2) end
end
call("set", size, string.format("%.0f", held), "px", ARGV[3])
call("pexpire", box, ARGV[3])
return gone
