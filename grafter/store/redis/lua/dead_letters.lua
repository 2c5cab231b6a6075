-- What the scripts of the dead-letter box have in common. A letter: dead_letters.py (_LETTER), its payload behind that.
local base = base_of(ARGV[1])
local box, size_name, sums, retried = base .. "letters", base .. "letters:bytes", base .. "letters:sums", base .. "letters:retried"

-- Add to what the box has for the letter's exporter, or take off: sign is 1 or -1. The answer: its spans.
local function count(letter, sign)
  if letter:byte(1) ~= 1 then return 0 end
  local spans = unpk("<I4", letter, 2)
  local key_bytes, exporter_bytes = unpk("<HH", letter, 14)
  local exporter = letter:sub(20 + key_bytes, 19 + key_bytes + exporter_bytes)
  -- A version that knows no sums may have put it there.
  if sign < 0 and tonumber(call("hget", sums, "n:" .. exporter) or "0") < 1 then return spans end
  if call("hincrby", sums, "n:" .. exporter, sign) == 0 then
    call("hdel", sums, "n:" .. exporter, "s:" .. exporter, "b:" .. exporter)
  else
    call("hincrby", sums, "s:" .. exporter, sign * spans)
    call("hincrby", sums, "b:" .. exporter, sign * #letter)
  end
  return spans
end

local function keep(held, milliseconds)
  call("set", size_name, string.format("%.0f", held), "px", milliseconds)
  for _, name in ipairs({box, sums, retried}) do
    call("pexpire", name, milliseconds)
  end
end
