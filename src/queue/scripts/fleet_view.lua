-- Reads the workers, and what waits for those of some classes, at one moment, for the fleet. ARGV: the names of the classes.
-- Returns the time; of each class its name, the number of ready jobs and parts, how many of the ready and the due ones are
-- parts of split jobs, the number of due entries, and since when the next of what is ready is ready (-1: nothing is); when the
-- next entry is due (-1: none), the pause of the fleet, the records of the workers, the workers that are alive with their scores, the
-- name, end and holder of each lease, and the machines on which a worker registered within a day, each with the time of
-- the last registration.
local now = clock()
local views, by_class = {}, {}
for i = 2, #ARGV do
  local class = ARGV[i] == DEFAULT_CLASS and '' or ARGV[i]
  local queue = lane(class)
  local first = redis.call('ZRANGE', queue, 0, 0)[1]
  local since = first and redis.call('HGET', status(first), 'queued') or -1
  local ready = first and redis.call('ZCARD', queue) or 0
  local view = { name = ARGV[i], ready = ready, since = since, open = 0, due = 0, due_parts = 0 }
  views[#views + 1], by_class[class] = view, view
end
local next_due = -1
local function is_part(task)
  return string.find(task, '/', 1, true) ~= nil
end
local function view_of(task)
  return by_class[class_of(task)]
end
local function task_of(member)
  return string.match(member, '^(.+):%d+$')
end
local function count(list, slack, name)
  for i = 2, #list, 2 do
    local at = tonumber(list[i])
    if at <= now or next_due < 0 or at + slack < next_due then
      local task = name(list[i - 1])
      local view = view_of(task)
      if view and at <= now then
        view.due = view.due + 1
        if is_part(task) then view.due_parts = view.due_parts + 1 end
      elseif view then
        next_due = at + slack
      end
    end
  end
end
local list = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
-- A worker that lives renews its lease long before the deadline, and the janitor reaps the lease of one that does
-- not. The fleet only has to look by itself if nobody does.
count(list, 30000, task_of)
-- More than a thousand due jobs do not raise the desired number of machines any further.
local delayed = redis.call('ZRANGE', scheduled, 0, 1000, 'WITHSCORES')
count(delayed, 0, tostring)
-- The parts that are ready are those that are neither encoded nor held nor delayed nor held back. With more than a hundred split
-- jobs, all that is ready of the classes of the others counts as parts: there are more of them than machines.
local held = {}
local function more_open(view, n)
  if view then view.open = view.open + n end
end
for n, id in ipairs(redis.call('SMEMBERS', split_jobs)) do
  local view = view_of(id)
  if view and n > 100 then
    view.open = math.huge
  elseif view then
    -- The plan is among the reports.
    more_open(view, redis.call('SCARD', parts(id)) + 1 - redis.call('HLEN', reports(id)) - redis.call('ZCARD', held_back(id)))
  end
end
for i = 1, #delayed, 2 do
  if is_part(delayed[i]) then more_open(view_of(delayed[i]), -1) end
end
for i = 1, #list, 2 do
  local task = task_of(list[i])
  local s = redis.call('HMGET', status(task), 'worker', 'class')
  if is_part(task) then more_open(by_class[s[2] or ''], -1) end
  held[#held + 1] = list[i]
  held[#held + 1] = list[i + 1]
  held[#held + 1] = s[1] or ''
end
local waiting = {}
for _, view in ipairs(views) do
  local ready_parts = math.max(0, math.min(view.ready, view.open))
  for _, value in ipairs({ view.name, view.ready, ready_parts + view.due_parts, view.due, view.since }) do
    waiting[#waiting + 1] = value
  end
end
return { now, waiting, next_due, redis.call('GET', P .. 'fleet:paused') or '',
  redis.call('HVALS', pool), redis.call('ZRANGE', alive, 0, -1, 'WITHSCORES'), held,
  redis.call('ZRANGEBYSCORE', heard, now - 86400000, '+inf', 'WITHSCORES') }
