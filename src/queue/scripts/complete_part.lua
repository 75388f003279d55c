-- Completes a part of a split job; after the last one the job is queued again, to be finished. Then claims the
-- worker's next task, if there are more arguments. ARGV: task, epoch, report, epoch of the attempt that split
-- the job, the number of parts, and optionally the arguments of claim.lua.
-- Returns DONE, ALREADY (this part is completed), or LOST, and the reply of claim.lua.
local task, epoch, report, split, total = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local id, part = job_and_part(task)
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
  if left > 0 then
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
if not ARGV[7] then return { answer } end
local args = { P }
for i = 7, #ARGV do args[#args + 1] = ARGV[i] end
return { answer, claim(args) }
