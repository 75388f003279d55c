-- Reads the queue and the workers at one moment, for the fleet. Returns the time, the number of ready jobs and parts,
-- how many of the ready and the due ones are parts of split jobs, since when the next of them is ready, the number of
-- due entries, when the next one is due (-1: none), the pause of the fleet, the records of the workers, the workers that are alive with their scores, the name, end
-- and holder of each lease, and the machines on which a worker registered within a day, each with the time of
-- the last registration.
local now = clock()
local first = redis.call('ZRANGE', pending, 0, 0)[1]
local since = first and redis.call('HGET', status(first), 'queued') or ''
local due, due_parts, next_due = 0, 0, -1
local function is_part(task)
  return string.find(task, '/', 1, true) ~= nil
end
local function count(list, slack)
  for i = 2, #list, 2 do
    local at = tonumber(list[i])
    if at <= now then
      due = due + 1
      if is_part(list[i - 1]) then due_parts = due_parts + 1 end
    elseif next_due < 0 or at + slack < next_due then
      next_due = at + slack
    end
  end
end
local list = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
-- A worker that lives renews its lease long before the deadline, and the janitor reaps the lease of one that does
-- not. The fleet only has to look by itself if nobody does.
count(list, 30000)
-- More than a thousand due jobs do not raise the desired number of machines any further.
local delayed = redis.call('ZRANGE', scheduled, 0, 1000, 'WITHSCORES')
count(delayed, 0)
-- The parts that are ready are those that are neither encoded nor held nor delayed nor held back. With more than a hundred split
-- jobs, all that is ready counts as parts: there are more of them than machines.
local open, held = 0, {}
for n, id in ipairs(redis.call('SMEMBERS', split_jobs)) do
  if n > 100 then
    open = math.huge
    break
  end
  -- The plan is among the reports.
  open = open + redis.call('SCARD', parts(id)) + 1 - redis.call('HLEN', reports(id)) - redis.call('ZCARD', held_back(id))
end
for i = 1, #delayed, 2 do
  if is_part(delayed[i]) then open = open - 1 end
end
for i = 1, #list, 2 do
  if is_part(list[i]) then open = open - 1 end
  held[#held + 1] = list[i]
  held[#held + 1] = list[i + 1]
  held[#held + 1] = redis.call('HGET', status(string.match(list[i], '^(.+):%d+$')), 'worker') or ''
end
local ready = first and redis.call('ZCARD', pending) or 0
local ready_parts = math.max(0, math.min(ready, open))
return { now, ready, ready_parts + due_parts, since, due, next_due, redis.call('GET', P .. 'fleet:paused') or '',
  redis.call('HVALS', pool), redis.call('ZRANGE', alive, 0, -1, 'WITHSCORES'), held,
  redis.call('ZRANGEBYSCORE', heard, now - 86400000, '+inf', 'WITHSCORES') }
