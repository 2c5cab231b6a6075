-- The totals of buckets. ARGV: buckets. The answer: the totals of each.
local answer = {}
for i, bucket in ipairs(ARGV) do
  answer[i] = totals_of(base_of(bucket))
end
return answer
