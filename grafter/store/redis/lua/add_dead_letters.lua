-- Put dead letters into the box. KEYS: the totals of its bucket. ARGV: bucket, bytes that the box may hold, how long it is
-- kept (milliseconds), what happens past the limit ("drop": the oldest go; "all": all of these or none; else as many as
-- there is room for), then the letters, the oldest first. The answer: how many are kept, and the spans of those that had
-- to go for them.
local limit, milliseconds, full = tonumber(ARGV[2]), ARGV[3], ARGV[4]
allow_past_maxmemory(KEYS[1])
local held = tonumber(call("get", size_name) or "0")
local kept, after = 0, held
for i = 5, #ARGV do
  -- One that is larger than the box has it to itself.
  if full ~= "drop" and after > 0 and after + #ARGV[i] > limit then break end
  after = after + #ARGV[i]
  kept = kept + 1
end
if full == "all" and kept < #ARGV - 4 then return {0, 0} end
for i = 5, 4 + kept do
  call("lpush", box, ARGV[i])
  held = held + #ARGV[i]
  count(ARGV[i], 1)
end
local gone = 0
while full == "drop" and held > limit and call("llen", box) > 1 do
  local letter = call("rpop", box)
  held = held - #letter
  gone = gone + count(letter, -1)
end
keep(held, milliseconds)
return {kept, gone}
