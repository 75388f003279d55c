-- Grants permits for requests to the provider: one per interval, over all processes. All times are in
-- microseconds, by the server's clock.
-- ARGV: fleet, interval, age, then
--   slot, class, budget: asks for a permit for a request of this class (0 is the most urgent); the caller would
--     wait for at most `budget`. Returns GO and the time, or WAIT with the wait and the time.
--   penalty, wait, jitter: the provider answered "too many requests"; `wait` is the pause that it asked for, or
--     -1; `jitter` (0 to 1000) selects a pause in the upper half of the back-off. Returns OK, the time of the
--     next permit, and the time.
--
-- `next` is when the next request is permitted. A class that has to wait stands in the queue from
-- `since<class>` to `until<class>`, so that it does not block the others if its caller does not ask again.
-- The class with the lowest since + class * age is first: a class waits at most that much longer than a more
-- urgent one, so none starves.
local key = of_fleet('provider:limit', ARGV[2])
local interval, age, verb = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local CLASSES, MAX_PAUSE = 5, 300 * interval

local names = { 'next', 'strikes', 'calm' }
for class = 0, CLASSES - 1 do
  names[#names + 1] = 'since' .. class
  names[#names + 1] = 'until' .. class
end
local s = redis.call('HMGET', key, unpack(names))
-- If the clock was set back, nobody waits longer than the longest penalty.
local next_at = math.min(tonumber(s[1] or '0'), now + MAX_PAUSE)
local strikes, calm = tonumber(s[2] or '0'), tonumber(s[3] or '0')
if now >= calm then strikes = 0 end

local function store(...)
  redis.call('HSET', key, ...)
  redis.call('PEXPIRE', key, 3600000)
end

if verb == 'penalty' then
  local requested, jitter = tonumber(ARGV[6]), tonumber(ARGV[7])
  strikes = math.min(strikes + 1, 6)
  local pause = requested
  if pause < 0 then
    pause = math.floor(interval * 2 ^ strikes * (1000 + jitter) / 2000)
  end
  -- At least an interval, and not as long as a broken header might demand.
  pause = math.min(math.max(pause, interval), MAX_PAUSE)
  next_at = math.max(next_at, now + pause)
  store('next', next_at, 'strikes', strikes, 'calm', next_at + 60 * interval)
  return { 'OK', next_at, now }
end

local class, budget = tonumber(ARGV[6]), tonumber(ARGV[7])
-- Since when a class has been waiting, if it is.
local function waiting_since(c)
  local from, expires = tonumber(s[4 + 2 * c] or '0'), tonumber(s[5 + 2 * c] or '0')
  if expires >= now then return math.min(from, now) end
end
local since = waiting_since(class) or now
local ahead = 0
for c = 0, CLASSES - 1 do
  local other_since = c ~= class and waiting_since(c)
  if other_since then
    local other_rank, rank = other_since + c * age, since + class * age
    if other_rank < rank or (other_rank == rank and c < class) then ahead = ahead + 1 end
  end
end

if now >= next_at and ahead == 0 then
  -- For a while after a penalty the interval is doubled, at most three times.
  store('next', now + interval * 2 ^ math.min(strikes, 3), 'strikes', strikes)
  redis.call('HDEL', key, 'since' .. class, 'until' .. class)
  return { 'GO', now }
end
local wait = math.max(next_at, now) - now + ahead * interval
if wait <= budget then
  local expires = math.max(tonumber(s[5 + 2 * class] or '0'), now + wait + interval)
  store('since' .. class, since, 'until' .. class, expires)
end
return { 'WAIT', wait, now }
