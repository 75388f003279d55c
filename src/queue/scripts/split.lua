-- Splits a job into parts, and gives back its lease: nobody waits for them while holding a worker. When the last
-- part is encoded, complete_part.lua queues the job again, to be finished. ARGV: id, epoch, plan, the
-- number of segments of each chunk, separated by commas, then for each part its name, by how many ms its place in the
-- queue is behind that of the job, and whether it is held back (1).
-- Returns SPLIT, ALREADY, or LOST with the job's state.
local id, epoch, plan, segments = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'rank', 'max', 'boost', 'split', 'attempt', 'error',
  'verify', 'class')
if not redis.call('ZSCORE', leases, id .. ':' .. epoch) then
  if s[6] == epoch then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
-- The attempt was to finish the job, and splits it anew.
local is_anew = s[6] and s[6] ~= ''
if is_anew then clean_up_attempt(id, s[6], clock()) end
on_error(function()
  redis.pcall('HSET', status(id), 'split', '', 'attempt', s[7], 'error', s[8] or '', 'verify', s[9] or '')
  pcall(drop_parts, id)
end)
if is_anew then drop_parts(id) end
local class = s[10] or ''
redis.call('HSET', reports(id), 'plan', plan)
local now = clock()
local names, tasks, places, held = {}, {}, {}, {}
for i = 6, #ARGV, 3 do
  local task, place = id .. '/' .. ARGV[i], string.format('%.0f', s[3] + ARGV[i + 1])
  names[#names + 1], tasks[#tasks + 1] = ARGV[i], task
  -- The epochs of a part are above that of the split, so that none of them was used for a part of an earlier split.
  -- The fields without a use are those by which a version that knows no parts sees that it must leave this alone.
  redis.call('HSET', status(task), 'state', 'queued', 'epoch', epoch, 'attempt', 0, 'max', s[4], 'boost', s[5],
    'rank', place, 'queued', now, 'created', now, 'spec', '', 'split', epoch, class_fields(class, SPLIT_VERSION))
  local to = ARGV[i + 2] == '1' and held or places
  to[#to + 1] = place
  to[#to + 1] = ARGV[i + 2] == '1' and ARGV[i] or task
end
redis.call('SADD', parts(id), unpack(names))
redis.call('SADD', split_jobs, id)
-- A version that holds nothing back has left what was held back of an earlier split.
redis.call('UNLINK', held_back(id))
if held[1] then redis.call('ZADD', held_back(id), unpack(held)) end
-- The attempts at finishing the job are counted anew.
redis.call('HSET', status(id), 'split', epoch, 'attempt', 0, 'error', '', 'verify', '', 'playable', '',
  'sound', '', 'segments', segments, 'limited', held[1] and '1' or '', class_fields(class, SPLIT_VERSION))
-- A version that knows no classes has left parts of an earlier split in the queue of their class.
if class ~= '' then dequeue(class, unpack(tasks)) end
enqueue(class, unpack(places))
redis.call('ZREM', leases, id .. ':' .. epoch)
-- The parts are in the queue, and wait for workers, whatever happens.
undo = {}
ring_all(class, #places / 2)
return { 'SPLIT' }
