-- Records a failed attempt at a task. If no further one follows, the job has failed. ARGV: task, epoch,
-- failure, ms until the next attempt (-1: there is none), hook flag, whether the next claim only verifies (1),
-- because this attempt cannot tell whether the job's manifest stands, the three arguments of finish about what
-- is kept, the epoch of the attempt that split the job (of a part, or of one that finishes a split job), or '', and
-- the entity tag of the job's input that the attempt has read, or '', and whether the attempt is not counted (1).
-- Returns RETRY with its time, FAILED, ALREADY, or LOST with the job's state.
local id, epoch, failure, delay, hook, verify = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local split, version, is_ignored = ARGV[11] or '', ARGV[12] or '', ARGV[13] == '1'
local job, part = job_and_part(id)
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then
  local s = redis.call('HMGET', status(id), 'state', 'epoch', 'error')
  -- With the job, the records of its parts are gone.
  if part and not s[1] then
    local of_job = redis.call('HMGET', status(job), 'state', 'error')
    s = { of_job[1], epoch, of_job[2] }
  end
  local repeated = s[2] == epoch and s[3] == failure and (s[1] == 'failed' or s[1] == 'queued')
  if repeated then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
give_back_on_error(id, epoch)
if delay >= 0 then
  local now = part and clock() or by_clock(event(id, 'queued'))
  if is_ignored then
    -- Undone by giving the attempt its number back: one failure less that may be ignored does no harm.
    redis.call('HINCRBY', status(id), 'ignored', 1)
    redis.call('HINCRBY', status(id), 'attempt', -1)
    on_error(function() redis.pcall('HINCRBY', status(id), 'attempt', 1) end)
  end
  redis.call('HSET', status(id), 'state', 'queued', 'error', failure, 'retry', now + delay, 'queued', '',
    'verify', verify, unpack(version ~= '' and { 'input_version', version } or {}))
  redis.call('ZADD', scheduled, now + delay, id)
  if not part then clean_up_attempt(id, epoch, now) end
  -- Wakes an idle worker, so that it learns when the retry is due and does not wait longer.
  ring(class_of(id), id)
  if part then
    local s = redis.call('HMGET', status(id), 'attempt', 'ignored')
    local tries = (tonumber(s[1]) or 0) + (tonumber(s[2]) or 0)
    pcall(tell_failed_part, id, split, tries, string.format('%.0f', now + delay), failure)
  end
  return { 'RETRY', now + delay }
end
if part then
  -- The other parts are of no use without this one.
  local waits, state = waits_for_parts(job, split)
  if not waits then
    drop_stale_part(id, split)
    return { 'LOST', state or '' }
  end
  on_error(function() redis.pcall('HSET', status(job), 'state', 'running', 'finished', '', 'error', '') end)
end
on_error(function() redis.pcall('HSET', status(job), 'split', split) end)
local ms = event(job, 'failed')
redis.call('HSET', status(job), 'state', 'failed', 'error', failure, 'finished', ms, 'split', '')
if not part then clean_up_attempt(job, epoch, by_clock(ms)) end
if split ~= '' then clean_up_attempt(job, split, by_clock(ms)) end
finish(job, 'failed', part and split or epoch, ms, hook, ARGV[8], ARGV[9], ARGV[10])
if split ~= '' then drop_parts(job) end
return { 'FAILED' }
