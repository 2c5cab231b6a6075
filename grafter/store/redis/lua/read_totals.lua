-- The totals of buckets. KEYS: those totals. ARGV: the token of a process and the numbers that it begins now, a byte each
-- (or nothing), then buckets. The answer: the totals of each, from which on those numbers are its own.
local token, begun = ARGV[1]:sub(1, 8), ARGV[1]:sub(9)
if begun ~= "" then allow_past_maxmemory(KEYS[1]) end
local answer = {}
for i = 2, #ARGV do
  local base = base_of(ARGV[i])
  for at = 1, #begun do
    local number = begun:byte(at)
    local raw = tally_before(base, number) or whole_tally("")
    call("hset", base .. "s", number, raw:sub(1, WHOSE_FROM - 1) .. token .. raw:sub(WHOSE_TO + 1))
  end
  answer[i - 1] = totals_of(base)
end
return answer
