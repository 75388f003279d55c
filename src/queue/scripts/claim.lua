-- Claims a task for a worker. ARGV: worker, now (the worker's estimate of the server's time), lease
-- ms, for how many ms the worker counts as alive, the number of due jobs to sweep first (0: none),
-- for how many ms leases are spared after Redis was away, for how many ms more because the caller
-- could not reach it, a token of the claim, whether it is repeated because its reply was lost, what may be
-- claimed (any: any task, part: a part, awaited: a part that somebody waits for), the classes of the tasks that the worker takes, separated by commas, and whether the worker
-- said a moment ago that it is alive (1: of one that held a lease until now, that is not stored again).
-- Returns JOB task epoch attempt spec ms born earlier queued trace error verifies keep keep_input keep_outputs
-- split-epoch awaited owner input-version ignored | EMPTY next-due now | UNREGISTERED | RETIRED | STRAY task | MOVED | NEWER task version. `error` is why the
-- attempt before failed; a job that is only to be verified (1) fails for that reason. `split-epoch` is that of the
-- attempt which split the job: of a part always, and of a job that is to be finished; else it is empty. `awaited` (1) is
-- a part that somebody waits for (await_segment.lua).
-- `ignored` is how many failures were not counted ('': none).
-- `input-version` is the entity tag of the job's input, if it is known; else it is empty.
local grace, away, token, again = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10] == '1'
local worker, now, lease, alive_ms, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- A sweep uses the server's clock, because it affects the leases of other workers. All claims of an
-- idle worker sweep, so the reply corrects its clock.
if limit > 0 then now = clock() end
local is_known = held_a_lease and ARGV[13] == '1'
if not is_known and redis.call('ZADD', alive, 'XX', 'GT', 'CH', now + alive_ms, worker) == 0 then
  local alive_until = redis.call('ZSCORE', alive, worker)
  if not alive_until then return { 'UNREGISTERED' } end
  -- Heartbeats do not change the scores of retired workers (retire.lua).
  if tonumber(alive_until) >= RETIRED_OFFSET then return { 'RETIRED' } end
end
-- A claim whose reply was lost holds its job already, and must not take a second one.
if again then
  for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local id, epoch = string.match(member, '^(.+):(%d+)$')
    local s = redis.call('HMGET', status(id), 'worker', 'claim', 'attempt', 'spec', 'created', 'before', 'queued',
      'trace', 'verify', 'error', 'epoch', 'keep', 'keep_input', 'keep_outputs', 'split', 'awaited', 'owner', 'input_version', 'ignored')
    if s[1] == worker and s[2] == token and s[11] == epoch then
      local ms = clock()
      redis.call('ZADD', leases, 'XX', 'GT', ms + lease, member)
      return { 'JOB', id, tonumber(epoch), tonumber(s[3]), s[4], ms, tonumber(s[5]), s[6] == '1' and 1 or 0,
        tonumber(s[7]) or ms, s[8] or '', s[10] or '', s[9] == '1' and 1 or 0, s[12] or '', s[13] or '', s[14] or '', s[15] or '',
        s[16] == '1' and 1 or 0, s[17] or '', s[18] or '', s[19] or '' }
    end
  end
end
local due = -1
if limit > 0 then
  claimant = worker
  local _, next_due = sweep(now, limit, grace, away)
  due = next_due
end
local lanes = {}
for class in string.gmatch(ARGV[12], '[^,]+') do lanes[#lanes + 1] = class == DEFAULT_CLASS and '' or class end
-- Takes the first task of all lanes out of its queue. Returns it, its place, the class of the lane, and the first task of
-- each of the others.
local function pop()
  if not lanes[2] then
    local popped = redis.call('ZPOPMIN', (lane(lanes[1])))
    return popped[1], popped[2], lanes[1], {}
  end
  local first, place, from, others = nil, nil, nil, {}
  for _, class in ipairs(lanes) do
    local head = redis.call('ZRANGE', (lane(class)), 0, 0, 'WITHSCORES')
    others[class] = head[1]
    if head[1] and (not first or tonumber(head[2]) < tonumber(place)) then first, place, from = head[1], head[2], class end
  end
  if first then
    redis.call('ZREM', (lane(from)), first)
    others[from] = nil
  end
  return first, place, from, others
end
local id, place, from, others, part, s, _
-- A version that knows no classes puts tasks of all classes into the default queue. A claim moves those that it finds there to
-- the queues of their classes, at most 16 of them.
for moved = 0, 16 do
  if moved == 16 then return { 'MOVED' } end
  id, place, from, others = pop()
  if not id then return { 'EMPTY', due, limit > 0 and now or -1 } end
  _, part = job_and_part(id)
  s = redis.call('HMGET', status(id), 'state', 'epoch', 'attempt', 'spec', 'created', 'queued', 'trace', 'verify',
    'error', 'keep', 'keep_input', 'keep_outputs', 'v', 'split', 'rank', 'owner', 'input_version', 'ignored', 'class')
  local class, task, at = s[19] or '', id, place
  if s[1] ~= 'queued' or class == from then break end
  undo = { function() redis.pcall('ZADD', (lane(from)), at, task) end }
  enqueue(class, place, id)
  undo = {}
  ring(class, id)
end
-- A part that somebody waits for stands in front of its usual place.
local is_awaited = part and tonumber(place) < (tonumber(s[15]) or 0)
if (ARGV[11] == 'part' and not part) or (ARGV[11] == 'awaited' and not is_awaited) then
  redis.call('ZADD', (lane(from)), place, id)
  return { 'EMPTY', due, limit > 0 and now or -1 }
end
local previous, attempt, born = tonumber(s[2]), tonumber(s[3]), tonumber(s[5])
if s[1] ~= 'queued' or not (previous and attempt and born and s[4]) then return { 'STRAY', id } end
on_error(function()
  redis.pcall('HSET', status(id), 'state', 'queued', 'attempt', s[3])
  redis.pcall('ZADD', (lane(from)), place, id)
end)
local version = tonumber(s[13]) or 1
if version > CLASS_VERSION then
  -- A worker of a newer version can do it. Until one comes, it is looked at less and less often.
  local time = clock()
  local pause = math.floor(math.min(math.max((time - born) / 4, 1000), 60000))
  redis.call('HSET', status(id), 'retry', time + pause)
  redis.call('ZADD', scheduled, time + pause, id)
  return { 'NEWER', id, version }
end
-- The wake-up that led to this claim may have been for a task of another lane, whose other workers sleep: it is passed on.
for class, task in pairs(others) do
  if ARGV[11] == 'any' then
    ring(class, task)
  elseif ARGV[11] == 'awaited' then
    ring_awaited(class, task)
  end
end
-- To verify is no attempt.
local verifies = s[8] == '1'
if not verifies then attempt = attempt + 1 end
local split = s[14] or ''
-- A version that knows no parts has ended the job and queued it again: it is planned anew.
if not part and split ~= '' and redis.call('HLEN', reports(id)) ~= redis.call('SCARD', parts(id)) + 1 then
  clean_up_attempt(id, split, clock())
  redis.call('HSET', status(id), 'split', '', 'playable', '', 'sound', '', 'segments', '')
  drop_parts(id)
  split = ''
end
local ms = part and (appended_at or limit > 0 and now or clock()) or event(id, 'running')
-- A plain counter would use a number twice: when the id is used again after its record has expired,
-- and when a failover has lost a claim. The time of events never repeats a number.
local epoch = math.max(previous + 1, ms)
-- It is ahead of the clock, by which leases expire, if that was set back.
if limit > 0 and ms - now > 1000 then ms = now end
-- The epochs of a part begin with that of the split (split.lua).
local before = previous > (part and tonumber(split) or 0) and 1 or 0
redis.call('HSET', status(id), 'state', 'running', 'epoch', epoch, 'attempt', attempt,
  'worker', worker, 'started', ms, 'progress', 0, 'claim', token, 'before', before,
  'awaited', is_awaited and '1' or '')
redis.call('ZADD', leases, ms + lease, id .. ':' .. epoch)
return { 'JOB', id, epoch, attempt, s[4], ms, born, before, tonumber(s[6]) or ms, s[7] or '',
  s[9] or '', verifies and 1 or 0, s[10] or '', s[11] or '', s[12] or '', split, is_awaited and 1 or 0,
  s[16] or '', s[17] or '', s[18] or '' }
