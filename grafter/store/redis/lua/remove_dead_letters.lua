-- Take dead letters out of the box. KEYS: the totals of its bucket. ARGV: bucket, how long the box is kept (milliseconds),
-- then for each letter its id and the letter. The answer: for each 1, or 0 where it was not there.
allow_past_maxmemory(KEYS[1])
local held = tonumber(call("get", size_name) or "0")
local answer = {}
for i = 3, #ARGV, 2 do
  -- Mostly the oldest go first.
  local removed = call("lrem", box, -1, ARGV[i + 1])
  if removed == 1 then
    held = held - #ARGV[i + 1]
    count(ARGV[i + 1], -1)
    call("srem", retried, ARGV[i])
  end
  answer[#answer + 1] = removed
end
keep(held, ARGV[2])
return answer
