-- The shared part, in front of every script. ARGV[1] is the key prefix; the other arguments belong
-- to the script. KEYS[1] only routes the call in a cluster: a script often finds out only by itself
-- which job it changes, so it builds the names of its keys, all with the same prefix.
--
-- Redis isolates scripts but does not roll them back. Every script therefore reads and decides
-- before its first write, and that write is one which Redis refuses when memory is out (except for
-- ending a lease, which must always succeed). A later command can still fail, for example because
-- another program has used a name for another type. Writes are therefore in such an order that a job
-- never stands in no set, or they say with on_error how they are undone. scripts.rs runs each script
-- as a function and, if it fails, calls what on_error was given, the last first.
local P = ARGV[1]
local pending, scheduled, uploading = P .. 'jobs:pending', P .. 'jobs:scheduled', P .. 'jobs:uploading'
local leases, dead, index = P .. 'jobs:leases', P .. 'jobs:dead', P .. 'jobs:index'
local events, wakeups, cancelled = P .. 'jobs:events', P .. 'jobs:bell', P .. 'jobs:cancelled'
-- Like the bell, for workers that are busy with parts of split jobs: somebody waits for a part.
local awaited_wakeups = P .. 'jobs:bell:awaited'
-- Wake-ups with a content: chunks whose sound a viewer waits for.
local awaited_sounds = P .. 'jobs:bell:sound'
local pool, alive, retired = P .. 'machines:pool', P .. 'machines:alive', P .. 'machines:retired'
local heard, cleanup = P .. 'machines:heard', P .. 'jobs:cleanup'
-- The tokens with a name, each with the hash of its secret.
local tokens = P .. 'tokens'
-- The classes, other than the default one, whose tasks are ready for a worker.
local classes = P .. 'jobs:classes'
-- The split jobs that wait for their parts.
local split_jobs = P .. 'jobs:split'
-- When a sweep last looked at the clock (now), and the newest event when it last followed a step (event); and whether a job
-- ever had another class than the default one (classes), so that sweeps look for them.
local clock_seen = P .. 'jobs:clock'
-- The version of the format of records and events; FORMAT_VERSION in src/job/mod.rs.
local VERSION = 1
-- The version of the records of split jobs and their parts; SPLIT_VERSION in src/job/mod.rs. One that knows only whole
-- jobs leaves them alone.
local SPLIT_VERSION = 3
-- The version of the records of jobs and parts that not all workers may run, which is the newest that can be read;
-- CLASS_VERSION in src/job/mod.rs. One that knows no classes leaves them alone.
local CLASS_VERSION = 4
-- The class of workers that the records of jobs do not name; WorkerClass::DEFAULT in src/job/worker_class.rs.
local DEFAULT_CLASS = 'default'
-- Scores of `alive` from this number on belong to retired workers: this number plus their time.
local RETIRED_OFFSET = 4503599627370496
local tries = P .. 'webhooks:tries'
-- The outbox for a job's hook, which depends on the key that signs the webhook. '0' has no webhook.
local outboxes = { ['1'] = P .. 'webhooks:outbox', ['2'] = P .. 'webhooks:outbox:kubernetes' }

local undo = {}
local function on_error(what)
  undo[#undo + 1] = what
end

-- The key of the record of a job, or of a part of one (<job>/<part>).
local function status(task)
  return P .. 'jobs:status:' .. task
end

-- The names of the parts of a split job.
local function parts(id)
  return P .. 'jobs:parts:' .. id
end

-- The plan of a split job (plan), and the report of each part that is encoded.
local function reports(id)
  return P .. 'jobs:reports:' .. id
end

-- The parts of a split job that are not in the queue yet, by their places there: each enters it when another is completed,
-- so that no more are encoded at once than the job allows.
local function held_back(id)
  return P .. 'jobs:heldback:' .. id
end

-- The job and the part that a task's name stands for; no part if it is a job.
local function job_and_part(task)
  local id, part = string.match(task, '^([^/]+)/(.+)$')
  return id or task, part
end

-- The class of the workers that may run a task; '' is the default one.
local function class_of(task)
  return redis.call('HGET', status(task), 'class') or ''
end

-- The lane of a class: the key of its queue, of its bell, and of its bell for workers that are busy with parts.
local function lane(class)
  if class == '' then return pending, wakeups, awaited_wakeups end
  return pending .. ':' .. class, wakeups .. ':class:' .. class, awaited_wakeups .. ':' .. class
end

-- The fields of the record of a task of this class. The version is at least `version`.
local function class_fields(class, version)
  if class == '' then return 'v', version end
  return 'v', CLASS_VERSION, 'class', class
end

-- Puts tasks, each after its place, into the queue of their class. The class is listed first, so that no queue with a task
-- is overlooked.
local function enqueue(class, ...)
  if class ~= '' then
    redis.call('SADD', classes, class)
    redis.call('HSET', clock_seen, 'classes', '1')
  end
  redis.call('ZADD', (lane(class)), ...)
end

-- Removes tasks from the queue of their class, and from that of the default one, where a version that knows no classes
-- puts all; a leftover there is dropped by the claim that finds it. Returns how many stood in the first.
local function dequeue(class, ...)
  local removed = redis.call('ZREM', (lane(class)), ...)
  if class ~= '' then redis.pcall('ZREM', pending, ...) end
  return removed
end

-- Appends an event and returns its time: the id in the stream is the server's clock, which saves a
-- TIME. Unlike the clock, it never goes back: while it is ahead of the clock, it stands still.
local function event(id, state, ...)
  local at = redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'v', VERSION, 'id', id, 'state', state, ...)
  return tonumber(string.match(at, '^%d+'))
end

-- The server's clock, for scripts that append no event.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The time of an event as other times are compared with it: the clock's, if that was set back meanwhile. Until a
-- sweep follows the step, that is the former clock's: the sweep moves all of its times together.
local function by_clock(ms)
  local now = clock()
  if ms - now < 5000 then return math.min(ms, now) end
  if redis.call('HGET', clock_seen, 'event') == string.format('%.0f', ms) then return now end
  return ms
end

-- The key of what is known of a token with this name. Windows of time have a key of their own each.
local function of_token(what, name, window)
  local key = P .. 'tokens:' .. what .. ':' .. name
  return window and key .. ':' .. string.format('%.0f', window) or key
end

local HOUR, DAY = 3600000, 86400000

-- Which limit of a token is reached, and the ms until another job may be submitted with it. If one may be submitted now,
-- nothing, and the jobs that have ended since they were counted as open, for count_job. It writes nothing. The limits are
-- the jobs of an hour, the jobs that have not ended, and the minutes of video of a day ('': none).
local function over_limit(name, per_hour, open_jobs, minutes, now)
  local most = tonumber(per_hour)
  if most and tonumber(redis.call('GET', of_token('jobs', name, math.floor(now / HOUR))) or 0) >= most then
    return 'jobsPerHour', HOUR - now % HOUR
  end
  most = tonumber(minutes)
  if most and tonumber(redis.call('GET', of_token('seconds', name, math.floor(now / DAY))) or 0) >= most * 60 then
    return 'sourceMinutesPerDay', DAY - now % DAY
  end
  most = tonumber(open_jobs)
  -- To end a job costs nothing for this set: whether its jobs are still open is found out when it is full.
  local open = of_token('open', name)
  if not most or redis.call('SCARD', open) < most then return nil, nil, {} end
  local count, ended = 0, {}
  for _, id in ipairs(redis.call('SMEMBERS', open)) do
    local state = redis.call('HGET', status(id), 'state')
    if not state or state == 'completed' or state == 'failed' or state == 'cancelled' then
      ended[#ended + 1] = id
    else
      count = count + 1
    end
  end
  if count >= most then return 'openJobs', 30000 end
  return nil, nil, ended
end

-- Counts a job that is submitted or retried with a token, as open only if the number of those is limited: the set then has
-- few members more than the limit.
local function count_job(name, id, now, open_jobs, ended)
  local hour, open = of_token('jobs', name, math.floor(now / HOUR)), of_token('open', name)
  on_error(function()
    redis.pcall('DECR', hour)
    redis.pcall('SREM', open, id)
  end)
  redis.call('INCR', hour)
  redis.call('PEXPIRE', hour, HOUR)
  if tonumber(open_jobs) then
    redis.call('SADD', open, id)
    if ended[1] then redis.call('SREM', open, unpack(ended)) end
  end
end

-- Counts a job as open that had ended, if the number of those is limited: there is a set of them then. The limit does not
-- refuse it, since the job was submitted within the limit. It needs no on_error: the job is in the queue already, and one too
-- many in the set is found out when the set is full.
local function count_as_open_again(name, id)
  local open = of_token('open', name)
  if name ~= '' and redis.call('EXISTS', open) == 1 then redis.call('SADD', open, id) end
end

-- Adds a job to the listing of the token with which it is submitted.
local function list_job(name, id, at)
  local listing = of_token('index', name)
  on_error(function() redis.pcall('ZREM', listing, id) end)
  redis.call('ZADD', listing, at, id)
  -- Two old entries are looked at for each new one, so that the listing does not keep all that have expired.
  for _, old in ipairs(redis.call('ZRANGE', listing, 0, 1)) do
    if old ~= id and redis.call('EXISTS', status(old)) == 0 then redis.call('ZREM', listing, old) end
  end
end

-- Counts the duration of the input of a completed job. The job is completed already, so that nothing may fail.
local function count_source(name, seconds, now)
  local day = of_token('seconds', name, math.floor(now / DAY))
  redis.pcall('INCRBYFLOAT', day, seconds)
  redis.pcall('PEXPIRE', day, DAY)
end

-- A key that each fleet has for itself: the fleet without a name, and each WorkerPool's by its uid.
local function of_fleet(key, fleet)
  return P .. key .. (fleet == '' and '' or ':' .. fleet)
end

-- Whether this reconciler holds the lock of a fleet.
local function holds_lock(fleet, holder, epoch, now)
  local l = redis.call('HMGET', of_fleet('fleet:lock', fleet), 'holder', 'epoch', 'until')
  return l[1] == holder and l[2] == epoch and tonumber(l[3]) > now
end

-- Stores the status of a fleet. Those of WorkerPools stand together, so that they can be listed.
local function publish_fleet(fleet, json)
  if fleet == '' then
    redis.call('SET', P .. 'fleet:status', json)
  else
    redis.call('HSET', P .. 'fleet:pools', fleet, json)
  end
end

-- Stores wake-ups in the bell of a class, whose workers wait there. A worker looks for tasks before it waits, so that old
-- ones are of no use: those of a class that no worker takes expire.
local function store_hints(class, bell, ...)
  redis.call('ZADD', bell, ...)
  if class ~= '' then redis.call('PEXPIRE', bell, 600000) end
end

-- Wakes an idle worker of a class. This is only a hint: a worker that misses it polls. At most 16 hints are
-- stored. The job selects which, so that two jobs wake two workers even if none is waiting at the
-- moment.
local function ring(class, id)
  local _, bell = lane(class)
  store_hints(class, bell, 0, string.sub(id, -1))
end

-- Wakes a worker of a class that is busy with parts, for one that somebody waits for.
local function ring_awaited(class, id)
  local _, _, bell = lane(class)
  store_hints(class, bell, 0, string.sub(id, -1))
end

-- Wakes up to n idle workers of a class.
local function ring_all(class, n)
  local hints = {}
  for i = 1, math.min(n, 16) do
    hints[2 * i - 1], hints[2 * i] = 0, string.format('%x', i - 1)
  end
  local _, bell = lane(class)
  if n > 0 then store_hints(class, bell, unpack(hints)) end
end

-- Asks one of the workers that are busy with parts for the sound around a chunk, unless one was asked a moment ago. It
-- is only a hint: a viewer who still waits asks again. Nobody waits for longer than a request is held, and few places are
-- kept, the newest.
local function ask_for_sound(id, split, chunk)
  local place = id .. ':' .. split .. ':' .. chunk
  local asked = P .. 'jobs:asked:' .. place
  if not redis.call('SET', asked, '', 'NX', 'PX', 5000) then return end
  on_error(function() redis.pcall('UNLINK', asked) end)
  redis.call('ZADD', awaited_sounds, clock(), place)
  redis.call('ZREMRANGEBYRANK', awaited_sounds, 0, -65)
  redis.call('PEXPIRE', awaited_sounds, 10000)
end

-- Has the janitor delete the outputs of an attempt that ended without completing its job, two minutes later: by
-- then the attempt has noticed.
local function clean_up_attempt(id, epoch, ms)
  local attempt = 'attempt:' .. id .. ':' .. epoch
  on_error(function() redis.pcall('ZREM', cleanup, attempt) end)
  redis.call('ZADD', cleanup, ms + 120000, attempt)
end

-- After an error, gives an attempt the lease back that the script has ended, for the usual time.
local function give_back_on_error(id, epoch)
  on_error(function()
    redis.pcall('HSET', status(id), 'state', 'running', 'finished', '')
    pcall(function() dequeue(class_of(id), id) end)
    redis.pcall('ZREM', scheduled, id)
    redis.pcall('ZADD', leases, clock() + 30000, id .. ':' .. epoch)
  end)
end

-- Whether a job waits for the parts into which this attempt split it; also returns its state, its place in the queue, its
-- class, whether some of its parts were held back, and which part has failed last.
local function waits_for_parts(id, split)
  local s = redis.call('HMGET', status(id), 'state', 'split', 'epoch', 'rank', 'class', 'limited', 'failed_part')
  return s[1] == 'running' and s[2] == split and s[3] == split, s[1], s[4], s[5] or '', s[6] == '1', s[7]
end

-- Tells that players can play a split job, as soon as its first chunk and the beginning of its sound are in storage.
local function play_if_ready(id, split, hook)
  local s = redis.call('HMGET', status(id), 'playable', 'sound')
  local has_sound = (tonumber(s[2]) or 0) > 0 or redis.call('SISMEMBER', parts(id), 'audio') == 0
    or redis.call('HEXISTS', reports(id), 'audio') == 1
  if (s[1] or '') ~= '' or not has_sound or redis.call('HEXISTS', reports(id), 'chunk-0') == 0 then return end
  local ms = event(id, 'playable')
  redis.call('HSET', status(id), 'playable', ms)
  if outboxes[hook] then redis.call('ZADD', outboxes[hook], by_clock(ms), id .. ':' .. split .. ':playable') end
end

-- Says in the record of a split job that an attempt at one of its parts has failed, and tells those who watch the job: its
-- state does not change with that. `tries` is how many attempts at this part have failed, and `retry` when the next is due
-- ('0': at once). The record of the part is in the queue already and counts; call this with pcall, so that it stays there.
-- An event with the progress and no epoch means that there is more to read than the progress.
local function tell_failed_part(task, split, tries, retry, failure)
  local id, part = job_and_part(task)
  if not waits_for_parts(id, split) then return end
  local total = redis.call('SCARD', parts(id))
  local done = redis.call('HLEN', reports(id)) - 1
  redis.call('HSET', status(id), 'failed_part', table.concat({ split, part, tries, retry, failure }, ' '))
  event(id, 'running', 'progress', string.format('%.1f', 100 * math.max(done, 0) / math.max(total, 1)))
end

-- Removes the parts of a split job that have not reported. Their workers lose their leases.
local function drop_open_parts(id)
  for _, part in ipairs(redis.call('SMEMBERS', parts(id))) do
    if redis.call('HEXISTS', reports(id), part) == 0 then
      local task = id .. '/' .. part
      local s = redis.call('HMGET', status(task), 'epoch', 'class')
      redis.pcall('ZREM', leases, task .. ':' .. (s[1] or ''))
      pcall(dequeue, s[2] or '', task)
      redis.pcall('ZREM', scheduled, task)
      redis.pcall('UNLINK', status(task))
      redis.pcall('SREM', parts(id), part)
    end
  end
  redis.pcall('UNLINK', held_back(id))
end

-- Removes all that is left of the parts of a split job. Their workers lose their leases. It reads before it removes,
-- and what it then fails to remove, claims and sweeps do, so that the caller never has to put a part back.
local function drop_parts(id)
  local keys, is_done = { parts(id), reports(id), held_back(id) }, {}
  for _, part in ipairs(redis.call('HKEYS', reports(id))) do is_done[part] = true end
  local open, held, class = {}, {}, ''
  for _, part in ipairs(redis.call('SMEMBERS', parts(id))) do
    local task = id .. '/' .. part
    keys[#keys + 1] = status(task)
    if not is_done[part] then
      local s = redis.call('HMGET', status(task), 'epoch', 'class')
      open[#open + 1] = task
      held[#held + 1] = task .. ':' .. (s[1] or '')
      -- They all have that of the job.
      class = s[2] or class
    end
  end
  if open[1] then
    redis.pcall('ZREM', leases, unpack(held))
    pcall(dequeue, class, unpack(open))
    redis.pcall('ZREM', scheduled, unpack(open))
    redis.pcall('SREM', split_jobs, id)
  end
  redis.call('UNLINK', unpack(keys))
end

-- Removes a part for which its job no longer waits, and the others, unless the job was split anew. This version
-- removes the parts when it ends a job; one that knows no parts does not.
local function drop_stale_part(task, split)
  local id = job_and_part(task)
  local s = redis.call('HMGET', status(id), 'state', 'split')
  local is_live = s[1] == 'queued' or s[1] == 'running'
  if is_live and s[2] and s[2] ~= '' and s[2] ~= split then
    if redis.call('HGET', status(task), 'split') == split then redis.call('UNLINK', status(task)) end
  else
    redis.call('UNLINK', status(task))
    drop_parts(id)
  end
end

-- The common part of all transitions that end a job; the caller writes the job's fields first. `keep` is for
-- how many ms its record is kept, `keep_input` and `keep_outputs` the same of the objects ('': for ever).
local function finish(id, state, epoch, ms, hook, keep, keep_input, keep_outputs)
  local list = state == 'failed' and dead or state == 'cancelled' and cancelled
  local outbox, delivery = outboxes[hook], id .. ':' .. epoch .. ':' .. state
  local kept = {}
  if tonumber(keep_input) or tonumber(keep_outputs) then
    -- Tells this job from a later one with the same id.
    local job = id .. ':' .. redis.call('HGET', status(id), 'created')
    if tonumber(keep_input) then kept['input:' .. job] = keep_input end
    if tonumber(keep_outputs) then kept['outputs:' .. job] = keep_outputs end
  end
  on_error(function()
    redis.pcall('PERSIST', status(id))
    if list then redis.pcall('ZREM', list, id) end
    if outbox then redis.pcall('ZREM', outbox, delivery) end
    for what in pairs(kept) do redis.pcall('ZREM', cleanup, what) end
  end)
  if tonumber(keep) then redis.call('PEXPIRE', status(id), keep) end
  if list then redis.call('ZADD', list, ms, id) end
  if outbox then redis.call('ZADD', outbox, by_clock(ms), delivery) end
  for what, time in pairs(kept) do redis.call('ZADD', cleanup, by_clock(ms) + time, what) end
end

-- Fails a job that waits for its upload. The last four arguments are those of finish.
local function fail_upload(id, failure, hook, keep, keep_input, keep_outputs)
  local ms = event(id, 'failed')
  on_error(function() redis.pcall('HSET', status(id), 'state', 'uploading', 'error', '', 'finished', '') end)
  redis.call('HSET', status(id), 'state', 'failed', 'error', failure, 'finished', ms)
  finish(id, 'failed', '0', ms, hook, keep, keep_input, keep_outputs)
  redis.call('ZREM', uploading, id)
end

-- The calling worker, in claim.lua.
local claimant
-- In complete_part.lua: the time of the event that the script has appended, which saves claim.lua a TIME, and
-- whether the calling worker held a lease until then, so that nobody can have retired it.
local appended_at, held_a_lease

-- Ends an expired lease. Its holder missed so many heartbeats that it counts as dead; if it is
-- alive after all, it registers again at its next claim.
local function drop_lease(member, worker)
  redis.call('ZREM', leases, member)
  if worker and worker ~= claimant then
    redis.call('ZREM', alive, worker)
    redis.call('HDEL', pool, worker)
  end
end

-- Requeues a task whose lease expired at its old place. After the last attempt its next claim only
-- verifies: the attempt that was lost may have committed its outputs, and only one that has looked at
-- the manifest may fail the job. Returns the number of jobs that became ready and their class, or nothing if the
-- entry is a leftover. One that this version cannot handle is put off, so that it stops no other.
local function reap(member, now)
  local id, epoch = string.match(member, '^(.+):(%d+)$')
  local s = redis.call('HMGET', status(id), 'state', 'epoch', 'attempt', 'max', 'rank', 'worker', 'verify', 'v',
    'split', 'ignored', 'class')
  if s[1] ~= 'running' or s[2] ~= epoch then return nil end
  local is_usable = tonumber(s[3]) and tonumber(s[4]) and tonumber(s[5])
  if not is_usable or (tonumber(s[8]) or 1) > CLASS_VERSION then
    redis.call('ZADD', leases, 'XX', now + 600000, member)
    return 0, ''
  end
  undo = { function() redis.pcall('HSET', status(id), 'state', 'running') end }
  local failure
  if s[7] == '1' then
    redis.call('HSET', status(id), 'state', 'queued', 'queued', now)
  elseif tonumber(s[3]) >= tonumber(s[4]) then
    failure = '{"errorCode":"workerLost","error":"The worker died ' .. s[3] .. ' times while it held this job; the file may crash it. Look at the worker\'s log, then retry the job."}'
    redis.call('HSET', status(id), 'state', 'queued', 'queued', now, 'verify', '1', 'error', failure)
  else
    failure = '{"errorCode":"workerLost","error":"The worker died or lost its connection while it held this job."}'
    redis.call('HSET', status(id), 'state', 'queued', 'queued', now, 'error', failure)
  end
  -- A part stores its outputs with those of its job.
  local _, part = job_and_part(id)
  if not part then clean_up_attempt(id, epoch, now) end
  local class = s[11] or ''
  enqueue(class, s[5], id)
  -- From here on the task is in the queue, whatever happens.
  undo = {}
  drop_lease(member, s[6])
  if not part then
    event(id, 'queued')
  elseif failure then
    pcall(tell_failed_part, id, s[9] or '', tonumber(s[3]) + (tonumber(s[10]) or 0), '0', failure)
  end
  return 1, class
end

-- Queues a delayed job whose time has come. Returns the same as reap.
local function promote(id, now)
  local s = redis.call('HMGET', status(id), 'state', 'boost', 'class')
  if s[1] ~= 'queued' then return nil end
  if not tonumber(s[2]) then
    redis.call('ZADD', scheduled, 'XX', now + 600000, id)
    return 0, ''
  end
  local rank = now - tonumber(s[2])
  redis.call('HSET', status(id), 'queued', now, 'rank', rank, 'retry', '')
  local class = s[3] or ''
  enqueue(class, rank, id)
  redis.call('ZREM', scheduled, id)
  return 1, class
end

-- How long leases are still spared after Redis was away, in ms. None could be renewed meanwhile, so that one
-- has expired says nothing about its holder. `grace` is the full time.
local function spared(grace)
  if grace == 0 then return 0 end
  local info = redis.pcall('INFO', 'server')
  local uptime = type(info) == 'string' and tonumber(string.match(info, 'uptime_in_seconds:(%d+)'))
  return uptime and math.max(grace - uptime * 1000, 0) or 0
end

-- Reaps and promotes due jobs, at most `limit` of each. Returns the number of jobs that became
-- ready, and when the next one is due (-1: none; now: more jobs are due than the limit allowed).
-- `grace` is for how long leases are spared after a restart of Redis, `away` for how long the caller
-- asks that they are, because it could not reach Redis itself.
local function sweep(now, limit, grace, away)
  local ready, by_class, due, leftovers = 0, {}, -1, {}
  for _, way in ipairs({ { leases, reap }, { scheduled, promote } }) do
    local list = redis.call('ZRANGE', way[1], 0, limit - 1, 'WITHSCORES')
    local next_due = #list == 2 * limit and now or -1
    local rest = 0
    if way[1] == leases and list[2] and tonumber(list[2]) <= now then
      rest = math.max(away, spared(grace))
    end
    for i = 1, #list, 2 do
      local at = tonumber(list[i + 1])
      -- During the grace no lease is reaped, however long ago it has expired.
      if at > now or rest > 0 then
        next_due = math.max(at, now + rest)
        break
      end
      local became, class = way[2](list[i], now)
      if became then
        ready = ready + became
        by_class[class] = (by_class[class] or 0) + became
      else
        leftovers[#leftovers + 1] = { way[1], list[i] }
      end
    end
    if next_due >= 0 and (due < 0 or next_due < due) then due = next_due end
  end
  -- This comes last: after the first write of a script, Redis no longer refuses its writes for lack
  -- of memory, and a ZREM before would let leases be reaped while their heartbeats are refused.
  for _, leftover in ipairs(leftovers) do
    redis.call('ZREM', leftover[1], leftover[2])
  end
  for class, n in pairs(by_class) do ring_all(class, n) end
  return ready, due
end
