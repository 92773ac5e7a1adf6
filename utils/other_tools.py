"""What keys of other tools are called here: for the message about a key that does not exist."""

EXTRACT = {
    # OpenAI-CLIP-Feature
    "image_list": "give file_with_image_paths=LIST",
    "output_dir": "give output_path=FOLDER; flat=true writes <output_path>/<id>.npz",
    "anno": "give annotations=dataset_coco.json",
    "ve_name": "give preset=NAME, of the same names; it brings its weights",
    "model_type_or_path": "give model_name=NAME, or the path of a checkpoint",
    "src_postfix": "leave it out: lines of file_with_image_paths name the files as they are, with any ending",
    "skip_miss_img": "leave it out: missing images are counted, listed and left out (on_error=skip)",
    "is_flickr": "give id_mode=stem (the default): names of files as they are",
    "debug": "give on_extraction=print, which saves nothing",
    # video_features
    "device_ids": "give device=cuda:0; for several GPUs start the same command once for each",
    "cpu": "give device=cpu",
    "config": "give keys on the command line; a job is --config-name NAME",
    "save_option": "give on_extraction=save_numpy",
    "path_to_video": "give video_paths=PATH",
    "video_dir": "give video_paths=FOLDER",
    "num_workers": "give workers=N, the processes that read files",
}
TRAIN = {
    # OpenAI-CLIP and its CFG
    "image_path": "give image_folder=FOLDER",
    "captions_path": "give data=captions_csv data_path=FILE.csv",
    "num_workers": "give workers=N, the processes that read pictures",
    "lr": "give optimizer.lr=X",
}
_WITH_A_MODEL = {key: EXTRACT[key] for key in ("model_type_or_path", "device_ids", "cpu")}
_OF_JOBS = {
    **dict.fromkeys(("extract", "plan"), EXTRACT),
    **dict.fromkeys(("search", "evaluate", "caption", "caption_evaluate"), _WITH_A_MODEL),
    "train": TRAIN,
}


def hint(key: str, job: str) -> str:
    """ "give output_path=FOLDER. " or nothing. `key` as it was typed, with dashes or without."""
    text = _OF_JOBS.get(job, {}).get(key.lstrip("-").partition("=")[0].replace("-", "_"), "")
    return f"{text}. " if text else ""
