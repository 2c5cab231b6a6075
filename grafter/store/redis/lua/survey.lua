-- The sums of buckets. ARGV: buckets. The answer: the sums of each.
local answer = {}
for i, bucket in ipairs(ARGV) do
  answer[i] = sums_of(base_of(bucket))
end
return answer
