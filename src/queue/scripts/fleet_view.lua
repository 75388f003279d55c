-- The queue and the workers at one moment, for the fleet. Returns now, the number of ready jobs, when the first of
-- them became ready, the number of due entries, when the next one is due (-1: none), the pause, the records of
-- workers, the workers alive with their scores, the name, deadline and holder of each lease, and the machines on
-- which a worker registered within a day, each with the time of the last registration.
local now = clock()
local first = redis.call('ZRANGE', pending, 0, 0)[1]
local since = first and redis.call('HGET', status(first), 'queued') or ''
local due, next_due = 0, -1
local function count(list)
  for i = 2, #list, 2 do
    local at = tonumber(list[i])
    if at <= now then
      due = due + 1
    elseif next_due < 0 or at < next_due then
      next_due = at
    end
  end
end
local list = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
count(list)
-- A thousand due entries already require the maximum number of machines.
count(redis.call('ZRANGE', scheduled, 0, 1000, 'WITHSCORES'))
local held = {}
for i = 1, #list, 2 do
  held[#held + 1] = list[i]
  held[#held + 1] = list[i + 1]
  held[#held + 1] = redis.call('HGET', status(string.match(list[i], '^(.+):%d+$')), 'worker') or ''
end
return { now, redis.call('ZCARD', pending), since, due, next_due, redis.call('GET', P .. 'fleet:paused') or '',
  redis.call('HVALS', pool), redis.call('ZRANGE', alive, 0, -1, 'WITHSCORES'), held,
  redis.call('ZRANGEBYSCORE', heard, now - 86400000, '+inf', 'WITHSCORES') }
