-- The right to ask the provider, one request an interval over every process. All times in microseconds, by this
-- server's clock.
-- ARGV: interval, age, then
--   slot class budget: a caller of this class (0 goes first) asks, and would wait `budget` at most.
--     Returns GO now | WAIT for-how-long now.
--   penalty wait jitter: the provider said "too many"; wait is what it asked for or -1, jitter 0..1000 places us
--     in the upper half of our own back-off. Returns OK next now.
--
-- `next` is when the next request may go. A class that was told to wait is in line from `since<class>`
-- until `until<class>`, which lapses when its caller does not come back. Who goes first is told by
-- since + class * age: a class waits at most that much longer than one before it, so none starves.
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
-- A clock that was set back must not hold everybody up for longer than any penalty could.
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
  -- No less than a pause, and never for as long as a broken header might say.
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
  -- After a penalty requests go further apart for a while: twice, four, at most eight times.
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
