-- Finds out whether a segment of a split job is in storage. If not, the part that it belongs to is put in front of
-- the queue: somebody waits for it. Where the sound is missing, a busy worker is told to encode what is played with the
-- viewer's chunk by itself. ARGV: id, epoch of the attempt that split the job, the stream (video or audio), and the
-- number of the segment.
-- Returns READY, WAIT, ENDED with the state of a job that has ended, or UNKNOWN.
local id, split, stream, segment = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local s = redis.call('HMGET', status(id), 'state', 'split', 'rank', 'segments', 'sound', 'class')
if not s[1] then return { 'UNKNOWN' } end
if s[1] ~= 'running' and s[1] ~= 'queued' then return { 'ENDED', s[1] } end
if s[2] ~= split then return { 'UNKNOWN' } end
local sound = tonumber(s[5]) or 0
-- The segments of the sound are stored one after the other.
if stream == 'audio' and segment < sound then return { 'READY' } end
-- The chunk with the picture of this segment, and its first one. The sound may be longer than the picture.
local chunk, first, is_last, is_found = 0, 0, false, false
for count, rest in string.gmatch(s[4] or '', '(%d+)(,?)') do
  is_last = rest == ''
  is_found = segment < first + count or (is_last and stream == 'audio')
  if is_found then break end
  chunk, first = chunk + 1, first + count
end
local part = stream == 'audio' and 'audio' or is_found and 'chunk-' .. chunk
if not part then return { 'UNKNOWN' } end
if redis.call('HEXISTS', reports(id), part) == 1 then
  -- The last chunk may have fewer segments than planned, because the duration in a file's header may be an estimate.
  -- Its report lists them.
  if is_last and stream ~= 'audio' then
    local report = redis.call('HGET', reports(id), part)
    local is_known, count = pcall(function() return #cjson.decode(report).chunk.rungs[1].segments end)
    if is_known and segment >= first + count then return { 'UNKNOWN' } end
  end
  return { 'READY' }
end
-- In front of all that nobody waits for, whatever its priority: this takes a worker from the others for one part. Among
-- each other, awaited parts stand by the arrival and the priority of their jobs.
local task, front, class = id .. '/' .. part, s[3] - 1000000000000, s[6] or ''
local place = redis.call('ZSCORE', (lane(class)), task)
local is_held_back = not place and redis.call('ZSCORE', held_back(id), part)
-- The first two chunks are played with the beginning of the sound.
local lacks_sound = is_found and first >= 2 and segment >= sound and redis.call('SISMEMBER', parts(id), 'audio') == 1
  and redis.call('HEXISTS', reports(id), 'audio') == 0
if is_held_back or (place and tonumber(place) > front) then
  ring(class, id)
  ring_awaited(class, id)
  enqueue(class, string.format('%.0f', front), task)
  if is_held_back then
    redis.call('HSET', status(task), 'extra', '1')
    redis.call('ZREM', held_back(id), part)
  end
end
if lacks_sound then ask_for_sound(id, split, chunk) end
return { 'WAIT' }
