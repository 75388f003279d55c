-- Permits one request to the provider per interval, over all processes. All times are in microseconds, by this
-- server's clock.
-- ARGV: interval, age, then
--   slot class budget: a caller of this class (0 is the most urgent) asks for a permit, and would wait `budget` at most.
--     Returns GO now | WAIT duration now.
--   penalty wait jitter: the provider returned 429; wait is the delay that it asked for, or -1; jitter, 0..1000,
--     selects a value in the upper half of our own back-off. Returns OK next now.
--
-- `next` is when the next request is permitted. A class that has to wait keeps its place from `since<class>` until
-- `until<class>`, after which it expires if its caller has not returned. The order is that of since + class * age: a
-- class waits at most `age` longer than the one before it, so none starves.
local key = P .. 'provider:limit'
local interval, age, verb = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local CLASSES, LONGEST = 5, 300 * interval

local names = { 'next', 'strikes', 'calm' }
for class = 0, CLASSES - 1 do
  names[#names + 1] = 'since' .. class
  names[#names + 1] = 'until' .. class
end
local s = redis.call('HMGET', key, unpack(names))
-- A clock that was set back must not block everybody for longer than the longest penalty.
local next_at = math.min(tonumber(s[1] or '0'), now + LONGEST)
local strikes, calm = tonumber(s[2] or '0'), tonumber(s[3] or '0')
if now >= calm then strikes = 0 end

local function put(...)
  redis.call('HSET', key, ...)
  redis.call('PEXPIRE', key, 3600000)
end

if verb == 'penalty' then
  local asked, jitter = tonumber(ARGV[5]), tonumber(ARGV[6])
  strikes = math.min(strikes + 1, 6)
  local hold = asked
  if hold < 0 then
    hold = math.floor(interval * 2 ^ strikes * (1000 + jitter) / 2000)
  end
  -- At least the interval, and at most the longest penalty, because the header may be broken.
  hold = math.min(math.max(hold, interval), LONGEST)
  next_at = math.max(next_at, now + hold)
  put('next', next_at, 'strikes', strikes, 'calm', next_at + 60 * interval)
  return { 'OK', next_at, now }
end

local class, budget = tonumber(ARGV[5]), tonumber(ARGV[6])
local function since(c)
  local from, till = tonumber(s[4 + 2 * c] or '0'), tonumber(s[5 + 2 * c] or '0')
  if till >= now then return math.min(from, now) end
end
local mine = since(class) or now
local ahead = 0
for c = 0, CLASSES - 1 do
  local theirs = c ~= class and since(c)
  if theirs then
    local mark, own = theirs + c * age, mine + class * age
    if mark < own or (mark == own and c < class) then ahead = ahead + 1 end
  end
end

if now >= next_at and ahead == 0 then
  -- After penalties the interval is two, four or at most eight times as long for a while.
  put('next', now + interval * 2 ^ math.min(strikes, 3), 'strikes', strikes)
  redis.call('HDEL', key, 'since' .. class, 'until' .. class)
  return { 'GO', now }
end
local wait = math.max(next_at, now) - now + ahead * interval
if wait <= budget then
  local till = math.max(tonumber(s[5 + 2 * class] or '0'), now + wait + interval)
  put('since' .. class, mine, 'until' .. class, till)
end
return { 'WAIT', wait, now }
