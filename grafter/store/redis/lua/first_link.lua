-- The link of a call's row: what stands there, else the one that is given, which stands from now on (see calls.py, whose
-- rows they are). KEYS: the totals of its bucket. ARGV: bucket, id, the link, the version of a row, now, when the row is
-- forgotten, how long Redis keeps it and the index (milliseconds), how many rows a bucket has at most.
-- The answer is the link; nothing where the row is a newer version's.
local base, id, link, version = base_of(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local now, ends, ttl, index_ttl, most = ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local name, index = base .. "c:" .. id, base .. "calls"
-- Who asks is about to send what makes room.
allow_past_maxmemory(KEYS[1])

local function forget(ids)
  for _, each in ipairs(ids) do
    call("zrem", index, each)
    call("unlink", base .. "c:" .. each)
  end
end

local known, until_ = unpack(call("hmget", name, "v", "until"))
if known and known ~= version then return false end
if until_ and tonumber(until_) <= tonumber(now) then call("unlink", name) end
call("hset", name, "v", version, "until", ends)
call("hsetnx", name, "at", now)
call("hsetnx", name, "link", link)
call("pexpire", name, ttl)
call("zadd", index, "gt", ends, id)
call("pexpire", index, index_ttl)
local stands = call("hget", name, "link")
-- A few at a time: there may be thousands, and others wait for Redis.
forget(call("zrangebyscore", index, "-inf", now, "limit", 0, 100))
forget(call("zrange", index, 0, -most - 1))
return stands
