-- Completes a part of a split job; after the last one the job is queued again, to be finished. Then claims the
-- worker's next task, if there are more arguments. ARGV: task, epoch, report, epoch of the attempt that split
-- the job, the number of parts, whether players can play the job (1) once its beginning is there: the sound and the
-- first chunk, the hook flag of the job, and optionally the arguments of claim.lua.
-- Returns DONE, ALREADY (this part is completed), or LOST, and the reply of claim.lua.
local task, epoch, report, split, total = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local id, part = job_and_part(task)
local plays, hook = ARGV[7] == '1', ARGV[8]
local answer = 'DONE'
if redis.call('ZREM', leases, task .. ':' .. epoch) == 0 then
  answer = redis.call('HEXISTS', reports(id), part) == 1 and 'ALREADY' or 'LOST'
else
  on_error(function()
    redis.pcall('SADD', parts(id), part)
    redis.pcall('HDEL', reports(id), part)
    redis.pcall('HSET', status(id), 'state', 'running', 'progress', 0)
    redis.pcall('ZREM', pending, id)
    redis.pcall('ZADD', leases, clock() + 30000, task .. ':' .. epoch)
  end)
  redis.call('HSET', reports(id), part, report)
  redis.call('SREM', parts(id), part)
  local left = redis.call('SCARD', parts(id))
  local other = part == 'audio' and 'chunk-0' or part == 'chunk-0' and 'audio'
  if plays and other and redis.call('SISMEMBER', parts(id), other) == 0 then
    local ms = event(id, 'playable')
    redis.call('HSET', status(id), 'playable', ms)
    if outboxes[hook] then redis.call('ZADD', outboxes[hook], by_clock(ms), id .. ':' .. split .. ':playable') end
  end
  if left > 0 then
    -- Those who watch hear of each part; the record is for those who ask, and is written a few times only.
    local eighths = math.floor(8 * (total - left) / total)
    if eighths > math.floor(8 * (total - left - 1) / total) then
      redis.call('HSET', status(id), 'progress', eighths * 12.5)
    end
    appended_at = event(id, 'running', 'progress', string.format('%.1f', 100 * (total - left) / total), 'epoch', split)
  else
    -- The guard is the state: a set that a failover has emptied twice must not queue the job twice.
    local s = redis.call('HMGET', status(id), 'state', 'split', 'rank', 'epoch')
    if s[1] == 'running' and s[2] == split and s[4] == split then
      redis.call('HSET', status(id), 'state', 'queued', 'queued', clock(), 'progress', 99)
      redis.call('ZADD', pending, s[3], id)
      ring(id)
    end
  end
  undo = {}
  held_a_lease = true
end
if not ARGV[9] then return { answer } end
local args = { P }
for i = 9, #ARGV do args[#args + 1] = ARGV[i] end
return { answer, claim(args) }
