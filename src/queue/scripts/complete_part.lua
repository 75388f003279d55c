-- Completes a part of a split job; after the last one the job is queued again, to be finished. Then claims the
-- worker's next task, if there are more arguments. ARGV: task, epoch, report, epoch of the attempt that split
-- the job, the number of parts, whether players can play the job once its beginning is there (1), the hook flag of the
-- job, and optionally the arguments of claim.lua.
-- Returns DONE, ALREADY (this part is completed), or LOST, and the reply of claim.lua.
local task, epoch, report, split, total = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local id, part = job_and_part(task)
local plays, hook = ARGV[7] == '1', ARGV[8]
local lease = task .. ':' .. epoch
local answer = 'DONE'
local for_claim = { P }
for i = 9, #ARGV do for_claim[#for_claim + 1] = ARGV[i] end
-- Finished work is not discarded if memory is out. But no lease may be reaped then, because heartbeats are refused, and
-- after the first write of a script nothing is. This command changes nothing, and is refused as they are.
local sweeps = for_claim[6] and for_claim[6] ~= '0'
if sweeps and type(redis.pcall('ZADD', leases, 'XX', 'GT', 0, lease)) == 'table' then for_claim[6] = '0' end
if redis.call('ZREM', leases, lease) == 0 then
  answer = redis.call('HEXISTS', reports(id), part) == 1 and 'ALREADY' or 'LOST'
else
  on_error(function() redis.pcall('ZADD', leases, clock() + 30000, lease) end)
  local waits, _, rank, class, is_limited, failed_part = waits_for_parts(id, split)
  if not waits then
    answer = 'LOST'
    drop_stale_part(task, split)
  else
    on_error(function()
      redis.pcall('HDEL', reports(id), part)
      redis.pcall('HSET', status(id), 'state', 'running', 'progress', 0)
      pcall(dequeue, class, id)
      redis.pcall('SADD', split_jobs, id)
    end)
    redis.call('HSET', reports(id), part, report)
    -- What failed before is over.
    local of_part = split .. ' ' .. part .. ' '
    if failed_part and string.sub(failed_part, 1, #of_part) == of_part then redis.pcall('HDEL', status(id), 'failed_part') end
    -- The reports are counted, apart from the plan: a report that is written twice counts once.
    local done = redis.call('HLEN', reports(id)) - 1
    if plays and (part == 'audio' or part == 'chunk-0') then play_if_ready(id, split, hook) end
    if done < total then
      -- Those who watch hear of each part; the record is for those who ask, and is written a few times only.
      local quarters = math.floor(4 * done / total)
      if quarters > math.floor(4 * (done - 1) / total) then
        redis.call('HSET', status(id), 'progress', quarters * 25)
      end
      appended_at = event(id, 'running', 'progress', string.format('%.1f', 100 * done / total), 'epoch', split)
      -- The sound, and a chunk that a viewer waited for, are beside the chunks that the job allows at once.
      local lets_in = is_limited and part ~= 'audio' and redis.call('HGET', status(task), 'extra') ~= '1'
      local next = lets_in and redis.call('ZRANGE', held_back(id), 0, 0, 'WITHSCORES') or {}
      if next[1] then
        on_error(function() pcall(dequeue, class, id .. '/' .. next[1]) end)
        enqueue(class, next[2], id .. '/' .. next[1])
        ring(class, id)
        redis.call('ZREM', held_back(id), next[1])
      end
    else
      appended_at = event(id, 'queued')
      redis.call('HSET', status(id), 'state', 'queued', 'queued', appended_at, 'progress', 99)
      redis.call('SREM', split_jobs, id)
      enqueue(class, rank, id)
      ring(class, id)
    end
  end
  undo = {}
  held_a_lease = true
end
if not for_claim[2] then return { answer } end
return { answer, claim(for_claim) }
