-- Work that is due at a time. KEYS: the totals of its bucket. ARGV: bucket, what to do, now, how long it is kept
-- (milliseconds), then what belongs to that. A task is a hash (due, put, blob; while it is owned token, until,
-- and woken where it was put meanwhile); a queue a kind has each task at the moment to look at it: due, or the lease's end.
local base = base_of(ARGV[1])
local what, now, ttl = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local total = base .. "t:count"
-- Also of a trace that leaves, which is settled only then.
if what ~= "put" or ARGV[6] == "1" then allow_past_maxmemory(KEYS[1]) end

-- Each put is a later one than the last. Nanoseconds of other years are no longer whole in a double: one more may be none.
local LATER = 1000

local function record_of(kind, name) return base .. "t:" .. kind .. "\0" .. name end
local function queue_of(kind) return base .. "t:" .. kind end
local function text(number) return string.format("%.0f", number) end

local function look_at(kind, name, at)
  call("zadd", queue_of(kind), text(at), name)
  call("pexpire", queue_of(kind), ttl)
  call("pexpire", record_of(kind, name), ttl)
end

local function let_go(kind, name)
  local record = record_of(kind, name)
  local due, woken = unpack(call("hmget", record, "due", "woken"))
  due = tonumber(due)
  if woken then due = math.min(due, tonumber(woken)) end
  call("hset", record, "due", text(due))
  call("hdel", record, "token", "until", "woken")
  look_at(kind, name, due)
end

local function owned(kind, name, token) return call("hget", record_of(kind, name), "token") == token end

if what == "put" then
  local limit = tonumber(ARGV[5])
  local fresh, added = {}, 0
  for i = 7, #ARGV, 4 do
    local record = record_of(ARGV[i], ARGV[i + 1])
    if not fresh[record] and call("exists", record) == 0 then
      fresh[record] = true
      added = added + 1
    end
  end
  if added > 0 and tonumber(call("get", total) or "0") + added > limit then return -1 end
  for i = 7, #ARGV, 4 do
    local kind, name, due, blob = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
    local record = record_of(kind, name)
    local known = call("hmget", record, "due", "put", "token", "until", "woken")
    if not known[1] then
      call("hset", record, "due", text(due), "put", text(now), "blob", blob)
      look_at(kind, name, due)
    else
      local earliest = math.min(tonumber(known[1]), due)
      call("hset", record, "due", text(earliest), "put", text(math.max(tonumber(known[2]) + LATER, now)))
      if blob ~= "" then
        -- What its owner knows of it is void.
        call("hset", record, "blob", blob)
        call("hdel", record, "token", "until", "woken")
        look_at(kind, name, earliest)
      elseif known[3] then
        call("hset", record, "woken", text(math.min(tonumber(known[5] or ARGV[i + 2]), due)))
      else
        look_at(kind, name, earliest)
      end
    end
  end
  if added > 0 then call("incrby", total, added) end
  call("pexpire", total, ttl)
  return added
end

if what == "claim" then
  local kind, limit, ends, token = ARGV[5], tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
  local found = {}
  while #found < limit do
    local names = call("zrangebyscore", queue_of(kind), "-inf", text(now), "limit", 0, limit - #found)
    if #names == 0 then break end
    for _, name in ipairs(names) do
      local record = record_of(kind, name)
      local known = call("hmget", record, "due", "put", "blob", "token")
      if not known[1] then
        call("zrem", queue_of(kind), name)
      elseif tonumber(known[1]) > now then
        -- Its owner fell silent, having named a later time.
        call("hdel", record, "token", "until", "woken")
        look_at(kind, name, tonumber(known[1]))
      else
        local mine = text(token + #found)
        call("hset", record, "token", mine, "until", ends)
        call("hdel", record, "woken")
        look_at(kind, name, tonumber(ends))
        found[#found + 1] = {name, known[1], known[2], known[3], mine}
      end
    end
  end
  return found
end

if what == "update" then
  local kind, name, token, due, blob, keep = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
  if not owned(kind, name, token) then return 0 end
  call("hset", record_of(kind, name), "due", due, "blob", blob)
  if keep == "0" then let_go(kind, name) end
  return 1
end

if what == "end" then
  local kind, name, token = ARGV[5], ARGV[6], ARGV[7]
  if not owned(kind, name, token) then return 0 end
  local woken = call("hget", record_of(kind, name), "woken")
  if woken then
    call("hset", record_of(kind, name), "due", woken)
    let_go(kind, name)
  else
    call("del", record_of(kind, name))
    call("zrem", queue_of(kind), name)
    call("decr", total)
  end
  return 1
end

-- renew, release: the end of the lease, then kind, name and token of each.
for i = 6, #ARGV, 3 do
  local kind, name = ARGV[i], ARGV[i + 1]
  if owned(kind, name, ARGV[i + 2]) then
    if what == "renew" then
      call("hset", record_of(kind, name), "until", ARGV[5])
      look_at(kind, name, tonumber(ARGV[5]))
    else
      let_go(kind, name)
    end
  end
end
return 1
